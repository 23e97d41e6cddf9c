"""Where the pairs stand: within a split, across splits, across labels."""

from collections import Counter
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from detector.data import duplicates

PLACES = st.tuples(st.sampled_from(["train", "validation", "test"]), st.sampled_from(["Fake", "Real"]))


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), PLACES), max_size=12))
def test_counts_are_those_of_all_pairs_by_hand(files):
    digests, places = [digest for digest, _ in files], [place for _, place in files]
    groups, counted = duplicates.exact_duplicates(digests, places)
    by_hand = Counter(
        duplicates.relation(places[i], places[j])
        for i, j in combinations(range(len(files)), 2)
        if digests[i] is not None and digests[i] == digests[j]
    )
    assert counted == by_hand
    assert all(len({digests[i] for i in group}) == 1 < len(group) for group in groups)


def test_relation_does_not_depend_on_the_order():
    assert duplicates.relation(("test", "Fake"), ("train", "Fake")) == (("train", "test"), False)
    assert duplicates.relation(("train", "Real"), ("test", "Fake")) == (("train", "test"), True)


def test_what_is_a_leak():
    assert not duplicates.is_leak((("train", "train"), False))
    assert duplicates.is_leak((("train", "test"), False))
    assert duplicates.is_leak((("unsplit", "unsplit"), True))


def test_leaks_are_listed_first():
    found = Counter({(("test", "test"), False): 1, (("train", "train"), False): 2, (("train", "test"), False): 3})
    assert [entry["pairs"] for entry in duplicates.listed(found)] == [3, 2, 1]

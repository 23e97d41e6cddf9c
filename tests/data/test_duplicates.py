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

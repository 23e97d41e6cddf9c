"""Results tables from the reports of evaluate.py: reads docs/results/*.json -> prints them, or writes them into the documentation.

    python benchmarks/results.py
    python benchmarks/results.py --write      replaces the tables between their markers in README.md and docs/*.md, and draws
                                              docs/images/photo_sources.png

Each file is the metrics.json of one released model, named after it; photo_new.json and photo_third.json are those of `photo` on
two more test sets. Reports with delivery tiers (--group-by folder --tiers) give the table of photos; the others, evaluated once
on the official CIFAKE test split with --corruptions, give the table of CIFAKE, together with published results. Those are their
authors' own, trained on all of train, in which 378 test images occur.
"""

import json

from measuring import ROOT, make_parser

END = "<!-- end of results -->"
CORRUPTIONS = {"JPEG 50": "JPEG 50", "JPEG 30": "JPEG 30", "noise σ 0.10": "noise 0.10", "blur σ 2": "blur 2"}  # heading: name
PUBLISHED = [  # name, accuracy in %, TPR at 1 % FPR in %, accuracy with the corruptions in %, source
    ("ViT-S/16, ImageNet weights, 224 px", 98.77, 98.5, (), "leyixu26/cifake-detection"),
    ("ResNet-50, 3×3 stem, 32 px", 97.87, None, (), "rominkevadiya/ALGONAUTS_INTERNAL_LJ_HACK"),
    ("ResNet-18, ImageNet weights", 97.78, 95.2, (), "leyixu26/cifake-detection"),
    ("CNN of 288k parameters, 32 px", 97.62, None, (), "leyixu26/cifake-detection"),
    ("AIvsReal: ResNet50V2, ImageNet weights", 96.14, None, (), "its README"),
    ("the paper's CNN", 92.98, None, (), "arXiv 2303.14126"),
    ("best published results with corruptions", None, None, (97.2, 95.6, 83.6, 56.3), "on 500 images"),
    ("ResNet101 from scratch, with photographs, 224 px", 92.2, None, (), "joehanmisquitta/Real-vs-AI-Generated-Image-Classifier"),
]  # fmt: skip


def with_interval(metrics, name, factor=100, digits=2):
    """Return a metric and its interval as text, in percent by default."""
    low, high = metrics["intervals"][name]
    return f"{factor * metrics[name]:.{digits}f} ({factor * low:.{digits}f} to {factor * high:.{digits}f})"


def own_row(name, report):
    """Return the cells of a model of this project."""
    tested = report["splits"]["test"]
    leaks, corrupted = tested["leaks"], tested["damage"] or {}
    cells = [f"**{name}**", with_interval(tested, "accuracy"), f"{100 * tested['tpr_at_1pct_fpr']:.2f}", f"{tested['auc']:.4f}"]
    cells.append(with_interval(tested, "ece", 1, 4))
    cells += [f"{100 * corrupted[key]['accuracy']:.2f}" if key in corrupted else "" for key in CORRUPTIONS.values()]
    return [*cells, f"docs/results/{name}.json; {leaks['either'] if leaks else '?'} test images in its training data"]


def published_row(name, accuracy, tpr, corrupted, source):
    """Return the cells of a published result."""
    cells = [name, *(f"{value:g}" if value else "" for value in (accuracy, tpr)), "", ""]
    return [*cells, *(f"{value:g}" for value in corrupted), *[""] * (len(CORRUPTIONS) - len(corrupted)), source]


def cifake_table(reports):
    """Return the Markdown table of CIFAKE; `reports` is {name: content of metrics.json}."""
    tested = sorted(reports.items(), key=lambda item: -item[1]["splits"]["test"]["accuracy"])
    rows = [own_row(*item) for item in tested] + [published_row(*row) for row in PUBLISHED]
    return markdown(["model", "accuracy, %", "TPR at 1 % FPR, %", "AUC", "ECE", *CORRUPTIONS, "source"], rows)


def photo_table(reports):
    """Return the Markdown table of photos: macro averages over sources in each delivery tier."""
    header = ["test set", "delivery", "mean AUC", "lowest AUC", "balanced accuracy, %", "false positives, %", "highest",
              "fakes caught, %", "uncertain, %"]  # fmt: skip
    rows = []
    for report in reports.values():
        whole = next(iter(report["splits"].values()))
        for tier, metrics in whole["tiers"].items():
            found = metrics["group_summary"]
            auc, false, balanced = found["auc"], found["real_called_fake"], found["balanced_accuracy"]
            rows.append([
                f"{len(whole['groups'])} sources", tier,
                *((f"{auc['mean']:.3f} ({auc['groups']} sources)", f"{auc['min']:.3f} ({auc['worst']})") if auc else ("", "")),
                f"{100 * balanced['mean']:.1f}" if balanced else "", f"{100 * false['mean']:.1f}",
                f"{100 * false['max']:.1f} ({false['worst']}: {false['errors']} of {false['images']})",
                f"{100 * found['fakes_caught']['mean']:.1f}", f"{100 * found['abstention_rate']['mean']:.1f}",
            ])  # fmt: skip
    return markdown(header, rows)


def main_table(cifake, photos):
    """Return README's Markdown table: the main results and the best published ones."""
    rows = [
        [f"**{name}**, CIFAKE's official test", f"accuracy {with_interval(cifake[name]['splits']['test'], 'accuracy')} %",
         f"TPR at 1 % FPR {100 * cifake[name]['splits']['test']['tpr_at_1pct_fpr']:.1f} %"]
        for name in ("compact", "resnet101")
    ]  # fmt: skip
    best, resnet = PUBLISHED[:2]
    rows.insert(1, [f"{best[0]} ({best[4]}), the same", f"accuracy {best[1]:g} %", f"TPR at 1 % FPR {best[2]:g} %"])
    rows.insert(2, [f"best published ResNet: {resnet[0]}, the same", f"accuracy {resnet[1]:g} %", ""])
    for report in reversed(photos.values()):
        whole = next(iter(report["splits"].values()))
        caught, false, uncertain = (percent(whole[name]) for name in ("fakes_caught", "real_called_fake", "abstention_rate"))
        test = f"**photo**, {whole['n']:,} images of {len(whole['groups'])} public sources"
        rows.append([test, f"AUC {with_interval(whole, 'auc', 1, 3)}",
                     f"{caught} % of fakes caught, {false} % of real images called Fake, {uncertain} % uncertain"])  # fmt: skip
    return markdown(["model and test", "main metric", ""], rows)


def source_table(report):
    """Return the Markdown table of one report's sources, as delivered."""
    rows = []
    for group in next(iter(report["splits"].values()))["groups"]:
        counts = [sum(group["verdict_counts"][name].values()) for name in ("Fake", "Real")]
        shares = [percent(group[name]) for name in ("fakes_caught", "real_called_fake", "abstention_rate")]
        auc = "" if group["auc"] is None else f"{group['auc']:.3f}"
        rows.append([group["group"], *map(str, counts), auc, *shares])
    return markdown(["source", "Fake", "Real", "AUC", "fakes caught, %", "false positives, %", "uncertain, %"], rows)


def percent(fraction):
    """Return a fraction in percent, or '' for None."""
    return "" if fraction is None else f"{100 * fraction:.1f}"


def draw_sources(report, file):
    """Draw the verdicts on each source, as delivered: one stacked bar for each class that it holds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    bars = []
    for group in next(iter(report["splits"].values()))["groups"]:
        for label, counts in group["verdict_counts"].items():
            if total := sum(counts.values()):
                bars.append(
                    (label, f"{group['group']} ({total})", [100 * counts[key] / total for key in ("Fake", "uncertain", "Real")])
                )
    bars.sort(reverse=True)
    figure, axes = plt.subplots(figsize=(8, 0.28 * len(bars) + 1.1), layout="constrained")
    left = [0.0] * len(bars)
    for number, (verdict, colour) in enumerate({"Fake": "#e69f00", "uncertain": "0.85", "Real": "#0072b2"}.items()):
        widths = [shares[number] for _, _, shares in bars]
        axes.barh([f"{label}: {name}" for label, name, _ in bars], widths, left=left, color=colour, label=f"verdict {verdict}")
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set(xlim=(0, 100), xlabel="share of the source's images, %")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def markdown(header, rows):
    """Return a Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [header, ["---"] * len(header), *rows])


def make_tables(folder):
    """Return {marker that begins the table: table} of the reports in a folder."""
    reports = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(folder.glob("*.json"))}
    photos = {name: report for name, report in reports.items() if next(iter(report["splits"].values())).get("tiers")}
    others = {name: report for name, report in reports.items() if name not in photos}
    tables = {"<!-- results: python benchmarks/results.py --write -->": cifake_table(others)}
    if photos:
        tables["<!-- results of photos: python benchmarks/results.py --write -->"] = photo_table(photos)
        for name, marker in (("photo", "results by source"), ("photo_new", "results by new source")):
            tables[f"<!-- {marker}: python benchmarks/results.py --write -->"] = source_table(photos[name])
        tables["<!-- main results: python benchmarks/results.py --write -->"] = main_table(others, photos)
    return tables


def replaced(text, tables):
    """Return a page with the tables between their markers."""
    for begin, table in tables.items():
        if begin in text:
            before, rest = text.split(begin)
            text = f"{before}{begin}\n{table}\n{END}{rest.split(END, 1)[1]}"
    return text


def main(argv=None):
    """Print or write the tables."""
    args = make_parser(__doc__, write=(False, "into the pages that have the markers")).parse_args(argv)
    tables = make_tables(ROOT / "docs" / "results")
    if not args.write:
        print("\n\n".join(tables.values()))
        return
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = page.read_text("utf-8")
        if (new := replaced(text, tables)) != text:
            page.write_text(new, "utf-8")
    report = json.loads((ROOT / "docs" / "results" / "photo.json").read_text("utf-8"))
    draw_sources(report, ROOT / "docs" / "images" / "photo_sources.png")


if __name__ == "__main__":
    main()

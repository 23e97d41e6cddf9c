"""The results table of README, from the reports that evaluate.py wrote: reads docs/results/*.json -> prints it, or writes it.

    python benchmarks/results.py
    python benchmarks/results.py --write      puts it into README.md, between its two markers

Each file is the metrics.json of one final model, evaluated once on the official test split with --damage; its name is that of the
model. The rows below them are what others report of themselves, on all of train, the 378 test images that stand in it included.
"""
import argparse
import json
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BEGIN, END = "<!-- results: python benchmarks/results.py --write -->", "<!-- end of results -->"
DAMAGES = {"JPEG 50": "JPEG 50", "JPEG 30": "JPEG 30", "noise σ 0.10": "noise 0.10", "blur σ 2": "blur 2"}  # heading: name
PUBLISHED = [  # name, accuracy in %, TPR at 1 % FPR in %, accuracy under the damages in %, source
    ("ViT-S/16, ImageNet weights, 224 px", 98.77, 98.5, (), "leyixu26/cifake-detection"),
    ("ResNet-50, 3×3 stem, 32 px", 97.87, None, (), "rominkevadiya/ALGONAUTS_INTERNAL_LJ_HACK"),
    ("ResNet-18, ImageNet weights", 97.78, 95.2, (), "leyixu26/cifake-detection"),
    ("CNN of 288k parameters, 32 px", 97.62, None, (), "leyixu26/cifake-detection"),
    ("AIvsReal: ResNet50V2, ImageNet weights", 96.14, None, (), "its README"),
    ("the paper's CNN", 92.98, None, (), "arXiv 2303.14126"),
    ("best of all public figures under damage", None, None, (97.2, 95.6, 83.6, 56.3), "on 500 images"),
    ("ResNet101 from scratch, with photographs, 224 px", 92.2, None, (), "joehanmisquitta/Real-vs-AI-Generated-Image-Classifier"),
]  # fmt: skip


def with_interval(figures, name, factor=100, digits=2):
    """Return a figure and its interval as text, in percent unless told otherwise."""
    low, high = figures["intervals"][name]
    return f"{factor * figures[name]:.{digits}f} ({factor * low:.{digits}f} to {factor * high:.{digits}f})"


def own_row(name, metrics):
    """Return the cells of one of our models."""
    tested = metrics["splits"]["test"]
    leaks = tested["leaks"]
    damage = tested["damage"] or {}
    cells = [f"**{name}**", with_interval(tested, "accuracy"), f"{100 * tested['tpr_at_1pct_fpr']:.2f}", f"{tested['auc']:.4f}"]
    cells.append(with_interval(tested, "ece", 1, 4))
    cells += [f"{100 * damage[key]['accuracy']:.2f}" if key in damage else "" for key in DAMAGES.values()]
    return [*cells, f"docs/results/{name}.json; {leaks['either'] if leaks else '?'} test images in its train"]


def published_row(name, accuracy, tpr, damages, source):
    """Return the cells of what others report."""
    cells = [name, *(f"{value:g}" if value else "" for value in (accuracy, tpr)), "", ""]
    return [*cells, *(f"{value:g}" for value in damages), *[""] * (len(DAMAGES) - len(damages)), source]


def make_table(folder):
    """Return the Markdown table."""
    heads = ["model", "accuracy, %", "TPR at 1 % FPR, %", "AUC", "ECE", *DAMAGES, "source"]
    reports = [(file.stem, json.loads(file.read_text("utf-8"))) for file in sorted(folder.glob("*.json"))]
    reports.sort(key=lambda report: -report[1]["splits"]["test"]["accuracy"])
    rows = [own_row(*report) for report in reports] + [published_row(*row) for row in PUBLISHED]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [heads, ["---"] * len(heads), *rows])


def replaced(readme, made):
    """Return README's text with the table between the markers."""
    before, rest = readme.split(BEGIN)
    return f"{before}{BEGIN}\n{made}\n{END}{rest.split(END)[1]}"


def main(argv=None):
    """Print or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into README.md")
    args = parser.parse_args(argv)
    made = make_table(ROOT / "docs" / "results")
    if not args.write:
        print(made)
        return
    readme = ROOT / "README.md"
    readme.write_text(replaced(readme.read_text("utf-8"), made), "utf-8")


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Holds `isg evaluate` against numpy, scipy and statsmodels on drawn prediction files: every score of every row, the corrections, the
permutation p-values and the intervals, as Markdown.

    cargo build --release --bin isg && python tools/peers/statistics_peers.py --isg target/release/isg

Correlations, errors and q agree to 1e-10; p and intervals are drawn on both sides, so they agree within what so many draws can say (five standard
errors of p; a tenth of the interval's width). Needs numpy, scipy and statsmodels; nothing of it is needed to build or test.
"""

import argparse
import csv
import itertools
import json
import pathlib
import subprocess
import tempfile

import numpy
from scipy import stats
from statsmodels.stats.multitest import multipletests

DRAWS, RESAMPLES = 10_000, 4_000


def draw(random, projects, patients, folds, genes, missing):
    """Rows of a prediction file: projects differ in mean, a third of the genes is predicted, some patients have two slides."""
    rows = []
    for number, project in enumerate(projects):
        for patient in range(patients):
            fold = patient % folds
            truth = random.normal(number, 1, genes)
            signal = numpy.where(numpy.arange(genes) % 3 == 0, 0.8, 0.0)
            for slide in range(1 + (patient % 4 == 0)):
                predicted = signal * truth + random.normal(number + 0.2 * fold, 0.8, genes)
                for gene in range(genes):
                    t = "" if random.random() < missing else float(truth[gene])
                    rows.append([f"{project}{patient}-{slide}", f"{project}{patient}", project, fold, f"G{gene}", t, float(predicted[gene]),
                                 0.5 + 0.25 * fold])
    return rows


def observations(rows, gene, project):
    """Patient, project, fold, truth, prediction and span, slides averaged."""
    kept = {}
    for _, patient, of, fold, name, truth, predicted, span in rows:
        if name == gene and truth != "" and project in ("all", of):
            kept.setdefault((of, patient, fold, span), []).append((float(truth), float(predicted)))
    values = {key: numpy.mean(pairs, axis=0) for key, pairs in sorted(kept.items())}
    return [(of, fold, span, *pair) for (of, _, fold, span), pair in values.items()]


def correlation(t, p):
    return stats.pearsonr(t, p)[0] if len(t) > 2 and numpy.ptp(t) > 0 and numpy.ptp(p) > 0 else numpy.nan


def scores(data):
    """Fold to (n, pearson, spearman, mse, mse_scaled)."""
    def one(some):
        t, p, span = (numpy.array([row[i] for row in some]) for i in (3, 4, 2))
        rho = stats.spearmanr(t, p)[0] if len(t) > 2 else numpy.nan
        return len(t), correlation(t, p), rho, numpy.mean((t - p) ** 2), numpy.mean(((t - p) / span) ** 2)
    folds = sorted({row[1] for row in data})
    of = {fold: one([row for row in data if row[1] == fold]) for fold in folds}
    mean = tuple(numpy.nanmean([of[fold][i] for fold in folds]) for i in range(1, 5))
    return {**of, "pooled": one(data), "mean": (len(data), *mean)}


def by_fold(t, p, fold):
    return numpy.nanmean([correlation(t[fold == f], p[fold == f]) for f in numpy.unique(fold)])


def null(random, data, draws):
    """Permutation p of the mean and the pool."""
    of, fold, _, t, p = (numpy.array(column) for column in zip(*data))
    sets = [numpy.flatnonzero((of == a) & (fold == b)) for a, b in itertools.product(numpy.unique(of), numpy.unique(fold))]
    observed = by_fold(t, p, fold), correlation(t, p)
    hits = numpy.zeros(2)
    for _ in range(draws):
        moved = t.copy()
        for some in sets:
            moved[some] = t[random.permutation(some)]
        hits += [by_fold(moved, p, fold) >= observed[0] - 1e-12, correlation(moved, p) >= observed[1] - 1e-12]
    return (1 + hits) / (1 + draws)


def interval(random, data, resamples):
    """Percentile bootstrap of the pool, patients drawn within project."""
    of, t, p = (numpy.array([row[i] for row in data]) for i in (0, 3, 4))
    sets = [numpy.flatnonzero(of == a) for a in numpy.unique(of)]
    drawn = [numpy.concatenate([random.choice(some, len(some)) for some in sets]) for _ in range(resamples)]
    return numpy.quantile([correlation(t[d], p[d]) for d in drawn], [0.025, 0.975])


def evaluate(isg, rows, folder, *options):
    path = folder / "predictions.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow("slide,patient,project,fold,gene,truth,predicted,target_span".split(","))
        writer.writerows(rows)
    return json.loads(subprocess.run([isg, "evaluate", path, "--json", *options], check=True, capture_output=True).stdout)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isg", default="target/release/isg")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random = numpy.random.default_rng(arguments.seed)
    print("| file | rows | worst score | worst q (BH, BY) | worst p, standard errors | worst interval, of its width |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for projects, patients, folds, genes, missing in ((["A"], 25, 5, 6, 0.0), (["A", "B"], 18, 3, 5, 0.0), (["A", "B"], 20, 4, 4, 0.15)):
            rows = draw(random, projects, patients, folds, genes, missing)
            ours = evaluate(arguments.isg, rows, pathlib.Path(folder))
            by = evaluate(arguments.isg, rows, pathlib.Path(folder), "--fdr", "by")
            worst, worst_q, worst_p, worst_i = 0.0, [0.0, 0.0], 0.0, 0.0
            for row in ours:
                wanted = scores(observations(rows, row["gene"], row["project"])).get(row["fold"], (0,) + (numpy.nan,) * 4)
                got = [row["n"], row["pearson"], row["spearman"], row["mse"], row["mse_scaled"]]
                for a, b in zip(got, wanted):
                    assert (a is None) == bool(numpy.isnan(b)), (row, wanted)
                    worst = max(worst, 0 if a is None else abs(a - b) / max(abs(b), 1e-3))
            for place, (table, rule) in enumerate(((ours, "fdr_bh"), (by, "fdr_by"))):
                for key in {(row["project"], row["fold"]) for row in table}:
                    pairs = [(row["p"], row["q"]) for row in table if (row["project"], row["fold"]) == key and row["p"] is not None]
                    if pairs:
                        p, q = zip(*pairs)
                        worst_q[place] = max(worst_q[place], numpy.abs(multipletests(p, method=rule)[1] - q).max())
            for row in (row for row in ours if row["fold"] == "pooled" and row["gene"] in ("G0", "G1")):
                data = observations(rows, row["gene"], row["project"])
                mean = next(r for r in ours if (r["project"], r["gene"], r["fold"]) == (row["project"], row["gene"], "mean"))
                for p, reference in zip((mean["p"], row["p"]), null(random, data, 2_000)):
                    error = numpy.sqrt(reference * (1 - reference) * (1 / 2_000 + 1 / DRAWS)) + 1e-3
                    worst_p = max(worst_p, abs(p - reference) / error)
                low, high = interval(random, data, RESAMPLES)
                width = high - low
                worst_i = max(worst_i, abs(row["pearson_low"] - low) / width, abs(row["pearson_high"] - high) / width)
            assert worst < 1e-10 and max(worst_q) < 1e-12 and worst_p < 5 and worst_i < 0.1, (worst, worst_q, worst_p, worst_i)
            name = f"{len(projects)} projects, {patients} patients, {folds} folds, {genes} genes, {missing:.0%} missing"
            print(f"| {name} | {len(ours)} | {worst:.1e} | {worst_q[0]:.0e}, {worst_q[1]:.0e} | {worst_p:.1f} | {worst_i:.3f} |")


if __name__ == "__main__":
    main()

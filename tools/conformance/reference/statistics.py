"""Statistics of predictions: numbers of the host, in f64."""
import mpmath
import math

import numpy as np, torch
import torch.nn.functional as F
from generate import Draw, global_updater, kcrs, local_updater, nchw, nhwc, vit, vit_params
from reference.cases import *
from reference.methods import *


HOST = ["kmeans", "delong", "benjamini_hochberg", "benjamini_yekutieli", "holm", "steiger", "paired_bootstrap", "permutation_p", "sensitivity_at_specificity"]
P_LIMIT = 1e-9


def two_sided_normal(z):
    return float(mpmath.erfc(abs(mpmath.mpf(float(z))) / mpmath.sqrt(2)))


def two_sided_t(t, df):
    return float(mpmath.betainc(df / 2, 0.5, 0, df / (df + mpmath.mpf(float(t)) ** 2), regularized=True))


def placements(score, label):
    """Share of negatives below every positive, and of positives above every negative; ties count half."""
    pos, neg = score[label == 1], score[label == 0]
    m = (pos[:, None] > neg).astype(float) + 0.5 * (pos[:, None] == neg)
    return m.mean(1), m.mean(0)


def labels(d, n):
    label = (d.rng.random(n) < 0.4).astype(np.float64)
    label[:2], label[2:4] = 0, 1
    return label


Z95 = 1.959963984540054


@case("delong")
def _(d):
    n = d.int(12, 150)
    label = labels(d, n)
    shared = d.rng.standard_normal(n)
    digits = d.pick(1, 1, 6)  # ties
    draw = lambda gain: np.round(gain * label + shared + 0.7 * d.rng.standard_normal(n), digits).astype(np.float32)
    t = dict(score=f64(draw(1.2)), other=f64(draw(0.6)), label=f64(label))

    def fn(t):
        y = t["label"].numpy()
        (a10, a01), (b10, b01) = placements(t["score"].numpy(), y), placements(t["other"].numpy(), y)
        cov = np.cov(np.stack([a10, b10])) / len(a10) + np.cov(np.stack([a01, b01])) / len(a01)
        auc, other = a10.mean(), b10.mean()
        half = Z95 * math.sqrt(cov[0, 0])
        z = (auc - other) / math.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1])
        return numbers(auc=auc, variance=cov[0, 0], low=max(auc - half, 0), high=min(auc + half, 1), auc_other=other, variance_other=cov[1, 1], covariance=cov[0, 1], z=z, p=two_sided_normal(z))

    return dict(level=0.95, limits={"out.p": P_LIMIT}, exact=list(t)), t, fn, []


def p_values(d):
    n = d.int(5, 120)
    p = d.rng.random(n) ** d.pick(1, 3)
    p[d.int(0, n - 1)] = p[d.int(0, n - 1)]  # a tie, if they differ
    return dict(p=f64(p))


def step_up(p, factor):
    order = np.argsort(-p, kind="stable")
    n = len(p)
    q = np.minimum.accumulate(p[order] * factor * n / np.arange(n, 0, -1))
    out = np.empty(n)
    out[order] = np.minimum(q, 1)
    return out


@case("benjamini_hochberg")
def _(d):
    t = p_values(d)
    return dict(exact=["p"]), t, lambda t: numbers(q=step_up(t["p"].numpy(), 1.0)), []


@case("benjamini_yekutieli")
def _(d):
    t = p_values(d)
    return dict(exact=["p"]), t, lambda t: numbers(q=step_up(t["p"].numpy(), (1 / np.arange(1, len(t["p"]) + 1)).sum())), []


@case("holm")
def _(d):
    def fn(t):
        p = t["p"].numpy()
        order, n = np.argsort(p, kind="stable"), len(p)
        out = np.empty(n)
        out[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(n, 0, -1)), 1)
        return numbers(adjusted=out)

    return dict(exact=["p"]), p_values(d), fn, []


def pearson(x, y):
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / math.sqrt((x * x).sum() * (y * y).sum())


def predictions(d, n):
    truth = d.rng.standard_normal(n)
    shared = d.rng.standard_normal(n)
    draw = lambda r: r * truth + 0.6 * shared + 0.6 * d.rng.standard_normal(n)
    return dict(truth=f64(truth), first=f64(draw(0.9)), second=f64(draw(0.6)))


def steiger(ra, rb, rab, n):
    """Two correlations with the same truth: Steiger's z with the pooled correlation, and Williams' t (n - 3 degrees)."""
    mean = (ra + rb) / 2
    psi = rab * (1 - 2 * mean**2) - mean**2 * (1 - 2 * mean**2 - rab**2) / 2
    s = psi / (1 - mean**2) ** 2
    z = (math.atanh(ra) - math.atanh(rb)) * math.sqrt((n - 3) / (2 - 2 * s))
    det = 1 - ra**2 - rb**2 - rab**2 + 2 * ra * rb * rab
    t = (ra - rb) * math.sqrt((n - 1) * (1 + rab) / (2 * (n - 1) / (n - 3) * det + mean**2 * (1 - rab) ** 3))
    return z, t


@case("steiger")
def _(d):
    t = predictions(d, d.int(12, 200))

    def fn(t):
        y, a, b = (t[k].numpy() for k in ("truth", "first", "second"))
        ra, rb, rab = pearson(y, a), pearson(y, b), pearson(a, b)
        z, w = steiger(ra, rb, rab, len(y))
        return numbers(r_first=ra, r_second=rb, r_between=rab, z=z, p=two_sided_normal(z), t=w, p_williams=two_sided_t(w, len(y) - 3))

    return dict(limits={"out.p": P_LIMIT, "out.p_williams": P_LIMIT}, exact=list(t)), t, fn, []


@case("paired_bootstrap")
def _(d):
    n = d.int(12, 60)
    t = dict(**predictions(d, n), resamples=f64(d.rng.integers(0, n, (d.int(99, 200), n))))

    def fn(t):
        y, a, b = (t[k].numpy() for k in ("truth", "first", "second"))
        rows = t["resamples"].numpy().astype(int)
        delta = np.array([pearson(y[i], a[i]) - pearson(y[i], b[i]) for i in rows])
        low, high = np.quantile(delta, [0.025, 0.975])
        return numbers(delta=pearson(y, a) - pearson(y, b), deltas=delta, low=low, high=high)

    return dict(level=0.95, exact=list(t)), t, fn, []


@case("permutation_p")
def _(d):
    n, groups, rounds = d.int(12, 60), d.int(1, 3), d.int(99, 300)
    group = np.arange(n) % groups
    perms = np.tile(np.arange(n), (rounds, 1))
    for row in perms[1:]:  # the first is the identity, which counts as any other
        for g in range(groups):
            at = np.flatnonzero(group == g)
            row[at] = d.rng.permutation(at)
    t = predictions(d, n)
    t = dict(truth=t["truth"], prediction=f64(0.35 * t["truth"].numpy() + d.rng.standard_normal(n)), group=f64(group), permutations=f64(perms))

    def fn(t):
        y, x = t["truth"].numpy(), t["prediction"].numpy()
        r = pearson(y, x)
        null = np.array([pearson(y[i], x) for i in t["permutations"].numpy().astype(int)])
        assert (np.abs(np.abs(null[1:]) - abs(r)) > 1e-9).all()
        count = lambda hits: (1 + int(hits.sum())) / (1 + len(null))
        return numbers(r=r, p_greater=count(null >= r - 1e-12), p_two_sided=count(np.abs(null) >= abs(r) - 1e-12))

    return dict(exact=list(t)), t, fn, []


def sensitivity(score, label, wanted):
    """The lowest of the scores that, as a threshold, leaves at least the wanted share of negatives below it."""
    neg, best = score[label == 0], None
    for threshold in np.unique(score)[::-1]:
        specificity = (neg < threshold).mean()
        if specificity >= wanted:
            best = dict(sensitivity=(score[label == 1] >= threshold).mean(), specificity=specificity, threshold=threshold)
    return best


@case("sensitivity_at_specificity")
def _(d):
    wanted = d.pick(0.8, 0.9, 0.95)
    while True:
        n = d.int(12, 150)
        t = dict(score=None, label=f64(labels(d, n)))
        t["score"] = f64(np.round(t["label"].numpy() + d.rng.standard_normal(n), d.pick(1, 6)))
        if (found := sensitivity(t["score"].numpy(), t["label"].numpy(), wanted)) and found["sensitivity"] > 0:
            break
    return dict(specificity=wanted, exact=list(t)), t, lambda t: numbers(**sensitivity(t["score"].numpy(), t["label"].numpy(), wanted)), []

//! Statistics and clustering: numbers that the host computes in f64, whatever the tensors of other cases hold.

use anyhow::{Context, Result, bail, ensure};
use isg::{
    eval::{multiple, paired, permutation, stats},
    kmeans,
};

use crate::{
    case::{CaseFile, Reference},
    check::Results,
};

const NAMES: &[&str] = &[
    "benjamini_hochberg",
    "benjamini_yekutieli",
    "delong",
    "holm",
    "kmeans",
    "paired_bootstrap",
    "pearson",
    "permutation_p",
    "roc_auc",
    "sensitivity_at_specificity",
    "steiger",
];

pub fn knows(op: &str) -> bool {
    NAMES.contains(&op)
}

pub fn results(case: &CaseFile) -> Result<Results> {
    let of = |name: &str| Ok::<&[f64], anyhow::Error>(&case.argument(name)?.values);
    let undefined = "undefined for this case";
    match case.op.as_str() {
        "benjamini_hochberg" => adjusted("q", of("p")?, multiple::benjamini_hochberg),
        "benjamini_yekutieli" => adjusted("q", of("p")?, multiple::benjamini_yekutieli),
        "holm" => adjusted("adjusted", of("p")?, multiple::holm),
        "delong" => {
            let level = case.float("level")?;
            let d = paired::delong(of("score")?, of("other")?, &positive(case)?, level).context(undefined)?;
            Ok(numbers(&[
                ("auc", d.auc),
                ("variance", d.variance),
                ("low", d.interval.low),
                ("high", d.interval.high),
                ("auc_other", d.other),
                ("variance_other", d.variance_other),
                ("covariance", d.covariance),
                ("z", d.z),
                ("p", d.p),
            ]))
        }
        "steiger" => {
            let s = paired::steiger(of("truth")?, of("first")?, of("second")?).context(undefined)?;
            Ok(numbers(&[
                ("r_first", s.first),
                ("r_second", s.second),
                ("r_between", s.between),
                ("z", s.z),
                ("p", s.p),
                ("t", s.t),
                ("p_williams", s.p_williams),
            ]))
        }
        "paired_bootstrap" => {
            let (resamples, level) = (rows(case, "resamples")?, case.float("level")?);
            let found = paired::bootstrap(of("truth")?, of("first")?, of("second")?, &resamples, level);
            let (delta, deltas, interval) = found.context(undefined)?;
            let mut all = numbers(&[("delta", delta), ("low", interval.low), ("high", interval.high)]);
            all.insert("out.deltas".to_string(), vector(deltas));
            Ok(all)
        }
        "permutation_p" => permutation_p(case, of("truth")?, of("prediction")?),
        "sensitivity_at_specificity" => {
            let wanted = case.float("specificity")?;
            let point =
                paired::sensitivity_at_specificity(of("score")?, &positive(case)?, wanted).context(undefined)?;
            Ok(numbers(&[
                ("sensitivity", point.sensitivity),
                ("specificity", point.specificity),
                ("threshold", point.threshold),
            ]))
        }
        "roc_auc" => Ok(numbers(&[("auc", stats::roc_auc(of("score")?, &positive(case)?).context(undefined)?)])),
        "pearson" => pearson(case),
        "kmeans" => clusters(case),
        unknown => bail!("unknown statistic `{unknown}`"),
    }
}

fn vector(values: Vec<f64>) -> Reference {
    Reference { shape: vec![values.len()], values }
}

fn numbers(values: &[(&str, f64)]) -> Results {
    values.iter().map(|(name, value)| (format!("out.{name}"), vector(vec![*value]))).collect()
}

fn positive(case: &CaseFile) -> Result<Vec<bool>> {
    Ok(case.argument("label")?.values.iter().map(|&label| label == 1.0).collect())
}

/// Row numbers, draw by draw.
fn rows(case: &CaseFile, name: &str) -> Result<Vec<Vec<usize>>> {
    let table = case.argument(name)?;
    let [_, n] = table.shape[..] else { bail!("{name} is not a table") };
    Ok(table.values.chunks_exact(n).map(|draw| draw.iter().map(|&row| row as usize).collect()).collect())
}

fn adjusted(name: &str, p: &[f64], adjust: fn(&[Option<f64>]) -> Vec<Option<f64>>) -> Result<Results> {
    let p: Vec<Option<f64>> = p.iter().copied().map(Some).collect();
    let values = adjust(&p).into_iter().collect::<Option<Vec<f64>>>().context("a p-value without its adjusted one")?;
    Ok(Results::from([(format!("out.{name}"), vector(values))]))
}

fn permutation_p(case: &CaseFile, truth: &[f64], prediction: &[f64]) -> Result<Results> {
    let correlation = |truth: &[f64]| stats::pearson(truth, prediction).context("a correlation is undefined");
    let permuted = (rows(case, "permutations")?.iter())
        .map(|rows| correlation(&rows.iter().map(|&row| truth[row]).collect::<Vec<f64>>()))
        .collect::<Result<Vec<f64>>>()?;
    let r = correlation(truth)?;
    let (p_greater, p_two_sided) = permutation::p_values(r, &permuted);
    Ok(numbers(&[("r", r), ("p_greater", p_greater), ("p_two_sided", p_two_sided)]))
}

/// Column by column, as genes are scored.
fn pearson(case: &CaseFile) -> Result<Results> {
    let (x, y) = (case.argument("x")?, case.argument("y")?);
    let [_, columns] = x.shape[..] else { bail!("x is not a table") };
    let column = |of: &Reference, c: usize| of.values.iter().skip(c).step_by(columns).copied().collect::<Vec<f64>>();
    let r = (0..columns).map(|c| stats::pearson(&column(x, c), &column(y, c)).context("an undefined correlation"));
    Ok(Results::from([("out.r".to_string(), vector(r.collect::<Result<_>>()?))]))
}

fn clusters(case: &CaseFile) -> Result<Results> {
    let (points, features) = (case.argument("points")?, case.argument("features")?);
    let [n, dim] = points.shape[..] else { bail!("points are not a table") };
    let (k, rounds) = (case.int("k")?, case.int("rounds")?);
    ensure!(rounds == kmeans::ROUNDS, "at most {rounds} rounds, and the library makes {}", kmeans::ROUNDS);
    let found = kmeans::lloyd(&points.values, dim, case.argument("centres")?.values.clone())?;
    let width = features.values.len() / n;
    let means = found.means(&features.values, width);
    let assignment: Vec<f64> = found.assignment.iter().map(|&cluster| cluster as f64).collect();
    let mut all = numbers(&[("objective", found.objective)]);
    all.insert("out.assignment".to_string(), vector(assignment));
    all.insert("out.centres".to_string(), Reference { shape: vec![k, dim], values: found.centres });
    all.insert("out.means".to_string(), Reference { shape: vec![k, width], values: means });
    Ok(all)
}

//! `isg evaluate`: scores tables of predictions, a run's own or anybody's.

use std::path::{Path, PathBuf};

use super::{Context, Outcome, output};
use crate::{
    error::{Error, Result},
    eval::{
        metrics::{Settings, Unit},
        multiple::FalseDiscovery,
        permutation::Permutations,
        predictions,
        stats::Bootstrap,
        tables::{self, Comparison, Method},
    },
    progress::Progress,
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg evaluate run                       a run's held-out predictions again, every method beside the first
  isg evaluate predictions.csv --json    any table method,slide,patient,project,repeat,fold,gene,truth,predicted
  isg evaluate run --fdr by --out scores
  isg evaluate msi.csv --specificity 0.9

A result is of one gene in one project. Each has a row fold \"mean\" (the mean of the folds' correlations, the headline), a
row \"pooled\" (the project's patients of all folds together) and a row for every fold of every repeat; then the same over
all projects together, project \"all\".

pearson   None with fewer than 3 patients; a fold without one does not enter the mean
n         patients; in the mean and the pool, of all folds
interval  95 %, patients drawn with replacement within their project (in a fold's row: within project and fold), the row's
          own statistic counted again. It is of these predictions: how another training would have gone is not in it. None
          with fewer than 4 patients; none of the mean where a fold has so few
p         one-sided, (1 + hits) / (1 + permutations): the patients' targets change places within project and fold (within
          project where repeats have other folds), the row's own statistic counted again. None with --unit slide, because
          slides of one patient are not independent, and where a fold holds one patient alone
q         p corrected for the genes of the same project and row
mse, r2   in the mean, the mean of the folds' own
mse_scaled  mean squared error divided by the square of the column target_span (what the fold's training targets were
          divided by); a run writes it, other tables may leave it out

A gene whose truth is 0 or 1 for everybody is a label and has in the same rows
auc       area under the ROC curve; a fold without patients of both classes does not enter the mean
auc_low, auc_high        its interval as above; delong_low, delong_high by DeLong's formula (none with --unit slide)
sensitivity, specificity, threshold   at the lowest threshold that reaches --specificity

A patient's prediction is the mean over their slides; in the pool, over the repeats too. Columns method, project, repeat, fold
and target_span may be absent. The method of the first line stands first, the others beside it.")]
pub struct Args {
    /// Run directory, or a table with the columns slide,patient,gene,truth,predicted.
    predictions: PathBuf,
    /// Folder for evaluation.json and evaluation.csv.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// patient or slide.
    #[arg(long, value_name = "UNIT", default_value = "patient", value_parser = ["patient", "slide"])]
    unit: String,
    /// Control of false discoveries: bh (Benjamini-Hochberg) or by (Benjamini-Yekutieli, under any dependence).
    #[arg(long, value_name = "RULE", default_value = "bh", value_parser = ["bh", "by"])]
    fdr: String,
    /// Specificity at which the sensitivity of labels is counted.
    #[arg(long, value_name = "S", default_value_t = Settings::default().specificity, value_parser = specificity)]
    specificity: f64,
    /// Permutations behind every p.
    #[arg(long, value_name = "N", default_value_t = Permutations::default().draws, value_parser = permutations)]
    permutations: usize,
    /// Seed of permutations and bootstrap.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Print every score of every method as a JSON array.
    #[arg(long)]
    json: bool,
}

/// Fewer cannot tell a p of 0.001 from its neighbours; more than ten million would outlast anyone's patience.
fn permutations(text: &str) -> std::result::Result<usize, String> {
    match text.parse::<usize>() {
        Ok(n) if (100..=10_000_000).contains(&n) => Ok(n),
        _ => Err("give a number from 100 to 10000000".to_string()),
    }
}

fn specificity(text: &str) -> std::result::Result<f64, String> {
    let given = text.parse::<f64>().ok().filter(|s| (0.0..1.0).contains(s));
    given.ok_or_else(|| "give a number from 0 to below 1, as 0.95".to_string())
}

pub fn run(args: Args, context: &Context) -> Result<Outcome> {
    let settings = Settings {
        unit: if args.unit == "slide" { Unit::Slide } else { Unit::Patient },
        false_discovery: match args.fdr.as_str() {
            "by" => FalseDiscovery::BenjaminiYekutieli,
            _ => FalseDiscovery::BenjaminiHochberg,
        },
        bootstrap: Bootstrap { seed: args.seed, ..Bootstrap::default() },
        permutations: Permutations { draws: args.permutations, seed: args.seed },
        specificity: args.specificity,
    };
    let path = table(&args.predictions)?;
    if let Some(out) = &args.out {
        let written = [out.join(tables::EVALUATION_JSON), out.join(tables::EVALUATION_CSV)];
        output::refuse_overwriting(written.iter().map(PathBuf::as_path), [path.as_path()])?;
    }
    let methods = predictions::read_methods(&path)?;
    for (name, table) in &methods {
        let remark = |remark: &String| context.progress.note(&format!("{}, {name}: {remark}", path.display()));
        table.remarks().iter().for_each(remark);
    }
    let scored: Vec<Method> = (methods.iter())
        .map(|(name, table)| Method { name, genes: &table.genes, predictions: &table.predictions })
        .collect();
    let comparison = Comparison::new(&scored, settings)?;
    if let Some(out) = &args.out {
        tables::write(out, &comparison)?;
    }
    if args.json {
        output::json(&comparison.rows())?;
        return Ok(Outcome::Done);
    }
    let results = comparison.results();
    output::line(tables::text(&results, &comparison.results_over_projects(), settings.unit))?;
    output::line(tables::explanation(&settings, &results).trim_end())?;
    if let Some(out) = args.out.as_deref().map(Path::display) {
        output::line(format_args!("tables: {out}"))?;
    }
    Ok(Outcome::Done)
}

/// The table to score: a file, or that of a run.
pub(super) fn table(given: &Path) -> Result<PathBuf> {
    if !given.is_dir() {
        return Ok(given.to_path_buf());
    }
    let of_run = given.join(tables::PREDICTIONS_FILE);
    match of_run.is_file() {
        true => Ok(of_run),
        false => Err(Error::input(
            given,
            format!("holds no {}", tables::PREDICTIONS_FILE),
            "name a run that got as far as its training, or a table of predictions",
        )),
    }
}

//! `isg spots`: encoders probed on spatial transcriptomics.

use std::path::PathBuf;

use super::{Context, Outcome, encoders, output};
use crate::{
    device::Device,
    encoder::{self, Parameters, PatchEncoder, colour},
    error::{Error, Result},
    eval::stats::Bootstrap,
    extractor::config::ExtractorConfig,
    io::atomic,
    pipeline::spots::{self, Features, Options, Target},
};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  isg spots her2st                                        the floors: depth, position, colour
  isg spots her2st --encoder efficientnet-lite0,weights=lite0.safetensors
  isg spots her2st --encoder isg,extractor=run/extractor/local,cells=4 --encoder untrained,preset=small,cells=4
  isg spots her2st --encoder vit,weights=uni.bin,preset=uni,tile_px=224 --json > spots.json

DIR holds for every section SECTION.jpg (or png, tif; or a folder SECTION with one image), its counts SECTION.tsv(.gz) with rows
XxY and a column for each gene, and SECTION_selection.tsv or SECTION.spots.txt with x, y, pixel_x, pixel_y: her2st's and
ST-Net's layout, in folders of any depth. C1 and C2 are of patient C, BC23209_C1 of BC23209; patients.csv (section,patient) says
otherwise.

A probe, ridge regression on the vectors of windows around spots, learns the genes of the highest mean count in its training
sections and is scored within each section that it has not seen: PCC is the mean over genes, then over sections. Patients are
held out one by one, and sections one by one from others of their patient. Three rows see no tissue, or hardly: depth (the
logarithm of a spot's total count, which no image shows), position (a quadratic surface over the array) and colour (17
statistics of stain). partial is the correlation given depth. Intervals draw blocks of spots within sections; the last lines
compare every row with colour on the same draws.

An encoder is NAME or NAME,KEY=VALUE,...: keys are its settings in [encoder] of a run, and extractor=DIR, what it learned (`isg
extractor train`), preset=small|paper for the sizes of an untrained pair, cells=N for mean and deviation over N x N cells
of a window in place of the window itself.")]
pub struct Args {
    /// Folder with the sections.
    dir: PathBuf,
    /// An encoder to probe beside the floors; may be given several times. `isg methods` lists them.
    #[arg(long = "encoder", value_name = "NAME[,KEY=VALUE...]")]
    encoders: Vec<String>,
    /// Side of the window around a spot, in pixels of the section's image.
    #[arg(long, value_name = "PX", default_value_t = Options::default().window_px)]
    window_px: usize,
    /// Genes probed: those of the highest mean count in the training sections.
    #[arg(long, value_name = "N", default_value_t = Options::default().genes)]
    genes: usize,
    /// stnet: ln((1 + count) / (genes + total)); log: ln(1 + 10000 count / total).
    #[arg(long, value_name = "TARGET", default_value_t)]
    target: Target,
    /// Genes with a column of their own in the text; all are in the JSON.
    #[arg(long, value_name = "GENES", value_delimiter = ',', default_values_t = SHOWN.map(String::from))]
    show: Vec<String>,
    /// Side of the blocks that intervals draw, in spots.
    #[arg(long, value_name = "SPOTS", allow_negative_numbers = true, default_value_t = Options::default().block)]
    block: f64,
    /// Resamples behind every interval.
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().resamples)]
    resamples: usize,
    /// Seed of the resamples.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the JSON here too.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Print JSON: every row, section and gene.
    #[arg(long)]
    json: bool,
}

/// Of the genes that papers on these data name.
const SHOWN: [&str; 5] = ["ERBB2", "GNAS", "FASN", "COL1A1", "IGKC"];

pub fn run(args: &Args, context: &Context) -> Result<Outcome> {
    let options = options(args)?;
    let device = context.device()?;
    let mut features = vec![Features::of(colour::SPEC.name, load(colour::SPEC.name, &device, context)?.encoder)];
    for text in &args.encoders {
        let Loaded { encoder, cells: side } = load(text, &device, context)?;
        if side > args.window_px {
            return Err(Error::Usage(format!("--encoder {text}: a window has {} pixels a side", args.window_px)));
        }
        features.push(if side > 1 { Features::of_cells(text, encoder, side) } else { Features::of(text, encoder) });
    }
    let report = spots::run(&args.dir, &features, &options, &context.progress)?;
    if let Some(path) = &args.out {
        let text = serde_json::to_string_pretty(&report).map_err(Error::internal)?;
        atomic::write_bytes(path, text.as_bytes())?;
    }
    if args.json {
        output::json(&report)?;
    } else {
        output::line(spots::text(&report, &args.show).trim_end())?;
    }
    Ok(Outcome::Done)
}

fn options(args: &Args) -> Result<Options> {
    let wrong = |what: String| Err(Error::Usage(what));
    if !(8..=4096).contains(&args.window_px) {
        return wrong(format!("--window-px {}: give 8 to 4096", args.window_px));
    }
    if !(1..=100_000).contains(&args.genes) {
        return wrong(format!("--genes {}: give 1 to 100000", args.genes));
    }
    if !(args.block > 0.0 && args.block.is_finite()) {
        return wrong(format!("--block {}: give a side in spots, above 0", args.block));
    }
    if !(100..=1_000_000).contains(&args.resamples) {
        return wrong(format!("--resamples {}: give 100 to 1000000", args.resamples));
    }
    let bootstrap = Bootstrap { resamples: args.resamples, seed: args.seed, ..Bootstrap::default() };
    Ok(Options { window_px: args.window_px, genes: args.genes, target: args.target, block: args.block, bootstrap })
}

/// What `NAME,KEY=VALUE,...` describes.
struct Loaded {
    encoder: Box<dyn PatchEncoder>,
    /// Cells along a side of a window; 1 for the window as it is.
    cells: usize,
}

fn load(text: &str, device: &Device, context: &Context) -> Result<Loaded> {
    let mut parts = text.split(',');
    let name = parts.next().unwrap_or_default().trim();
    let mut settings = parts.map(encoders::setting).collect::<Result<Parameters>>()?;
    let wrong = |what: &str| Error::Usage(format!("--encoder {text}: {what}"));
    let cells = match settings.remove("cells") {
        None => 1,
        Some(value) => value.as_u64().filter(|n| (1..=64).contains(n)).ok_or_else(|| wrong("cells is 1 to 64"))?,
    };
    let learned = settings.remove("extractor").map(|value| value.as_str().map(PathBuf::from));
    let learned = learned.map(|path| path.ok_or_else(|| wrong("extractor is a folder"))).transpose()?;
    let mut pair = ExtractorConfig::default();
    // The sizes of a pair are no settings of its encoder, which has them from its run.
    if encoder::named(name, Parameters::new()).is_ok_and(|encoder| encoder.differs_by_scale())
        && let Some(preset) = settings.remove("preset")
    {
        let table = toml::Table::from_iter([("preset".to_string(), preset.as_str().unwrap_or_default().into())]);
        pair = ExtractorConfig::from_table(table).map_err(|e| wrong(&e))?;
    }
    let encoder = encoders::load(name, settings, learned.as_deref(), pair, device, &context.progress)?;
    Ok(Loaded { encoder, cells: cells as usize })
}

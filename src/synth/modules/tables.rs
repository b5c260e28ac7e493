//! A cohort of the modules design as files: slides, expression, sample sheet, truth, what every patch holds.

use std::path::Path;

use rayon::prelude::*;

use super::{
    super::{MPP, SynthOptions, SynthSummary, claim, configuration, file_id, random::Stream, write_slide},
    GENES, PATCH_PX, Plan, SITES,
    layout::{Compartment, Layout, Truth},
};
use crate::{
    error::{Error, Result},
    io::atomic,
    progress::Progress,
};

/// Draws the cohort into `dir`: slides, tables, `truth.csv`, `patches.csv`, `isg.toml`.
///
/// # Errors
/// As [`super::generate`].
pub fn generate(dir: &Path, options: &SynthOptions, progress: &dyn Progress) -> Result<SynthSummary> {
    claim(dir, "modules", options)?;
    let plans: Vec<Plan> = (0..options.slides).map(|index| Plan::draw(options.seed, index)).collect();
    progress.begin("drawing slides", plans.len() as u64, "slides");
    let drawn: Result<Vec<(Truth, String, bool)>> = plans
        .par_iter()
        .map(|plan| {
            progress.check()?;
            let (layout, truth) = plan.layout(options);
            let path = dir.join("slides").join(format!("{}.tiff", plan.slide()));
            let there = path.exists();
            if !there {
                let (image, appearance) = plan.paint(&layout, options);
                write_slide(&path, &image, appearance.jpeg_quality)?;
            }
            progress.advance(1);
            Ok((truth, patch_rows(plan, &layout, options), !there))
        })
        .collect();
    progress.end();
    let drawn = drawn?;
    write_tables(dir, &plans, &drawn, options.seed)?;
    let new = drawn.iter().filter(|(_, _, new)| *new).count();
    Ok(SynthSummary { slides: plans.len(), drawn: new, patients: plans.len() })
}

/// What bounds every selector, for whoever wants it.
const BOUNDS: &str = r#"
# Who knows where the genes are, and who knows nothing; as many patches for every selector.
# [select]
# selector = "table"
# table = { file = "patches.csv", column = "nest" }     # or column = "random"
# top = 24
"#;

/// Place of glass among a patch's shares.
const GLASS: usize = 4;

/// What every whole patch of a slide holds, as shares of its area, and a number drawn for it, 0 on glass.
fn patch_rows(plan: &Plan, layout: &Layout, options: &SynthOptions) -> String {
    let side_um = (PATCH_PX as f64 * MPP) as f32;
    let mut stream = Stream::new(options.seed, "modules random patches", plan.index as u64);
    let mut rows = String::new();
    for row in 0..options.size_px / PATCH_PX {
        for column in 0..options.size_px / PATCH_PX {
            let (x_um, y_um) = (column as f32 * side_um, row as f32 * side_um);
            let of =
                |wanted: Compartment| layout.share(x_um, y_um, side_um, |i| layout.compartments.values[i] == wanted);
            let blurred = layout.share(x_um, y_um, side_um, |i| {
                layout.compartments.values[i] != Compartment::Glass && layout.is_blurred(i)
            });
            let dust = layout.share(x_um, y_um, side_um, |i| layout.dust.values[i] > 0.0);
            let shares = [
                of(Compartment::Nest),
                of(Compartment::Pool),
                of(Compartment::Decoy),
                of(Compartment::Stroma),
                of(Compartment::Glass),
                blurred,
                dust,
            ];
            let drawn = stream.unit();
            let random = if shares[GLASS] < 0.5 { drawn } else { 0.0 };
            let values: Vec<String> = shares.iter().chain([&random]).map(|value| format!("{value:.3}")).collect();
            rows += &format!("{},{},{},{}\n", plan.slide(), column * PATCH_PX, row * PATCH_PX, values.join(","));
        }
    }
    rows
}

fn write_tables(dir: &Path, plans: &[Plan], drawn: &[(Truth, String, bool)], seed: u64) -> Result<()> {
    let mut truth = String::from(
        "slide,patient,site,nest_share,pool_share,decoy_share,blur_share,folds,dust_share,texture,dividing_share,lymphocyte_per_mm2,\
         lymphocytes_in_nests,nest_mm2,tissue_mm2\n",
    );
    let mut sheet =
        String::from("File ID\tFile Name\tData Category\tData Type\tProject ID\tCase ID\tSample ID\tSample Type\n");
    let mut patches = String::from("slide,x_px,y_px,nest,pool,decoy,stroma,glass,blurred,dust,random\n");
    let mut columns = vec![Vec::new(); GENES.len()];
    for (plan, (counted, rows, _)) in plans.iter().zip(drawn) {
        let (m, slide, barcode) = (&plan.morphology, plan.slide(), &plan.barcode);
        let lymphocytes = counted.lymphocytes[0] + counted.lymphocytes[1];
        truth += &format!(
            "{slide},{barcode},{},{:.4},{:.4},{:.4},{:.4},{},{:.4},{:.4},{:.4},{:.2},{:.4},{:.5},{:.5}\n",
            SITES[plan.site],
            counted.nest_mm2 / counted.tissue_mm2,
            m.pool_share,
            m.decoy_share,
            m.blur_share,
            m.folds,
            m.dust_share,
            m.texture,
            counted.dividing as f64 / (counted.dividing + counted.dying).max(1) as f64,
            lymphocytes as f64 / counted.tissue_mm2,
            counted.lymphocytes[0] as f64 / lymphocytes.max(1) as f64,
            counted.nest_mm2,
            counted.tissue_mm2
        );
        sheet += &format!(
            "{}\t{slide}.tiff\tBiospecimen\tSlide Image\tTCGA-SYNT\t{barcode}\t{barcode}-01Z\tPrimary Tumor\n",
            file_id(seed, plan.index)
        );
        patches += rows;
        let values = plan.expression(counted, seed);
        columns.iter_mut().zip(values).for_each(|(column, value)| column.push(format!("{value:.4}")));
    }
    let mut expression =
        format!("gene\t{}\n", plans.iter().map(|p| format!("{}-01A", p.barcode)).collect::<Vec<_>>().join("\t"));
    for (gene, values) in GENES.iter().zip(&columns) {
        expression += &format!("{gene}\t{}\n", values.join("\t"));
    }
    let save = |name: &str, text: &str| atomic::write_bytes(dir.join(name), text.as_bytes());
    save("truth.csv", &truth)?;
    save("sample_sheet.tsv", &sheet)?;
    save("patches.csv", &patches)?;
    save("expression.tsv", &expression)?;
    let path = dir.join("isg.toml");
    if !path.try_exists().map_err(|e| Error::io(&path, e))? {
        let text = configuration::run_configuration(&GENES, seed) + BOUNDS;
        atomic::write_bytes(&path, text.as_bytes())?;
    }
    Ok(())
}

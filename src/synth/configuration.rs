//! The run configuration that is written beside a synthetic cohort, so that `isg run OUT_DIR/isg.toml` works as it is.

/// Paths are relative to the file itself.
const TEMPLATE: &str = r#"# Run configuration of a synthetic cohort; use it with: isg run isg.toml
preset = "small"
seed = {seed}
out = "run"

[cohort]
slides = "slides"
expression = "expression.tsv"
sample_sheet = "sample_sheet.tsv"
genes = [{genes}]

[extractor]
steps = 1600
"#;

pub fn run_configuration(genes: &[&str], seed: u64) -> String {
    let genes: Vec<String> = genes.iter().map(|g| format!("\"{g}\"")).collect();
    TEMPLATE.replace("{genes}", &genes.join(", ")).replace("{seed}", &seed.to_string())
}

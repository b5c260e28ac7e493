//! `cargo tool licences`: every package in the lock file may be shipped under MIT OR Apache-2.0. Needs no network
//! once `cargo fetch` has brought them.

use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Licences that ask for attribution at most.
const ALLOWED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "IJG", // the JPEG quantisation tables of jpeg-encoder
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// True if every package carries at least one allowed licence for each of its `AND` parts.
pub fn run() -> Result<bool> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .output()
        .context("cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout).context("cargo metadata")?;
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut refused = 0;
    for package in packages {
        let licence = package["license"].as_str().unwrap_or("");
        if !is_allowed(licence) {
            println!("{} {}: licence `{licence}` is not on the list", package["name"], package["version"]);
            refused += 1;
        }
    }
    println!("{} packages, {refused} refused", packages.len());
    Ok(refused == 0)
}

/// `A OR (B AND C)`: expressions in use are flat, so splitting at AND, then at OR, decides them.
fn is_allowed(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    plain.split(" AND ").all(|part| part.split(" OR ").any(|licence| ALLOWED.contains(&licence.trim())))
}

#[cfg(test)]
mod tests {
    use super::is_allowed;

    #[test]
    fn expressions() {
        assert!(is_allowed("MIT OR Apache-2.0"));
        assert!(is_allowed("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(is_allowed("Unlicense/MIT"));
        assert!(!is_allowed("GPL-3.0-only"));
        assert!(!is_allowed("MIT AND GPL-3.0"));
        assert!(!is_allowed(""));
    }
}

//! Slide-level methods: a bag of patches, or an image, in; a prediction and its loss out.

use anyhow::{Result, bail};

use crate::{check::Prepared, subject::Subject};

/// Prepares the method that `attrs.method` names. Results `prediction` and `loss`; leaves are the parameters under their names
/// in the file, and the inputs.
pub fn prepare(subject: &Subject) -> Result<Prepared> {
    bail!("unknown method `{}`", subject.case.text("method")?)
}

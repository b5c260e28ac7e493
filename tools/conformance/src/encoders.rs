//! Encoders of patches: images in, features out, with weights named and laid out as in the files people hold.

use anyhow::{Result, bail};

use crate::{check::Prepared, subject::Subject};

/// Prepares the encoder that `attrs.encoder` names. Results `features`, and where the case has it `layer3`; leaves are the
/// parameters under their names in the file.
pub fn prepare(subject: &Subject) -> Result<Prepared> {
    bail!("unknown encoder `{}`", subject.case.text("encoder")?)
}

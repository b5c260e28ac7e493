//! Single operations: the library's registry knows how each is called. An optimiser's step, which is no operation, is called here.

use anyhow::{Result, bail};
use isg::{
    op::registry::Arguments,
    optim::adam::{self, AdamStep},
};

use crate::{
    case::CaseFile,
    check::Prepared,
    subject::{Outputs, Subject},
};

/// Prepares an operation for its run; unknown operations are an error.
pub fn prepare(subject: &Subject) -> Result<Prepared> {
    let leaves = subject.inputs.clone();
    let a = Arguments { tensors: leaves.clone(), attributes: subject.case.attrs.clone() };
    if subject.case.op == ADAM_STEP {
        return Ok(Prepared { leaves, run: adam_step(subject.case, a)? });
    }
    let spec = isg::ops().find(|spec| spec.name == subject.case.op);
    let Some(reference) = spec.and_then(|spec| spec.reference) else {
        bail!("unknown operation `{}`", subject.case.op);
    };
    Ok(Prepared { leaves, run: Box::new(move || reference(&a)) })
}

/// What cases of one update by Adam are called.
pub const ADAM_STEP: &str = "adam_step";

fn adam_step(case: &CaseFile, a: Arguments) -> Result<Box<dyn FnOnce() -> isg::Result<Outputs>>> {
    let step = AdamStep {
        lr: case.float("lr")?,
        beta1: case.float("beta1")?,
        beta2: case.float("beta2")?,
        eps: case.float("eps")?,
        weight_decay: case.float("weight_decay")?,
        decoupled: case.flag("decoupled")?,
        step: case.int("step")? as u64,
    };
    Ok(Box::new(move || {
        let (param, m, v) = (a.tensor("param")?, a.tensor("m")?, a.tensor("v")?);
        adam::update(&step, param, a.tensor("grad")?, m, v)?;
        Ok([("param", param), ("m", m), ("v", v)].map(|(name, t)| (name.to_string(), t.clone())).into())
    }))
}

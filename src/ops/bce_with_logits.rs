//! Binary cross-entropy of logits. Composed of `softplus(−x) = −log σ(x)`, which no logit makes overflow.

use crate::{
    activation::{Activation, ActivationParams},
    error::{Error, Result},
    op::{Case, Draw, OpSpec, Order, drawn, normal, registry::only, same_float},
    tensor::Tensor,
};

impl Tensor {
    /// The mean of `−w y log σ(x) − (1 − y) log σ(−x)` over all elements, shape `[1]`, of logits `[…, c]`; `target`, between 0 and
    /// 1, is of their shape, and `pos_weight`, `[c]`, weighs positives, 1 where there is none.
    pub fn bce_with_logits(&self, target: &Tensor, pos_weight: Option<&Tensor>) -> Result<Tensor> {
        const NAME: &str = "bce_with_logits";
        same_float(NAME, &[self.spec(), target.spec()])?;
        if self.shape() != target.shape() || pos_weight.is_some_and(|w| w.shape()[..] != [self.shape().last()]) {
            let weight = pos_weight.map_or(String::new(), |w| format!(" and positives' weights {}", w.shape()));
            return Err(Error::shape(NAME, format!("{} against a target {}{weight}", self.shape(), target.shape())));
        }
        let softplus = self.neg()?.bias_act(None, Activation::Softplus, ActivationParams::default())?;
        // (1 − y) x + (1 + (w − 1) y) softplus(−x)
        let negative = target.affine(-1.0, 1.0)?.mul(self)?;
        let positive = match pos_weight {
            None => softplus,
            Some(w) => target.mul(&w.shift(-1.0)?)?.shift(1.0)?.mul(&softplus)?,
        };
        negative.add(&positive)?.mean_all()
    }
}

pub const SPEC: OpSpec = OpSpec {
    name: "bce_with_logits",
    order: Order::Any,
    kernels: &[],
    cases: || {
        let targets = |shape: [usize; 2]| drawn(shape, Draw::Uniform(0.0, 1.0));
        vec![
            Case::new("plain", [normal([7, 3]), targets([7, 3])], |x| Ok(vec![x[0].bce_with_logits(&x[1], None)?])),
            Case::new("weighted", [normal([5, 4]), targets([5, 4]), drawn([4], Draw::Uniform(0.2, 6.0))], |x| {
                Ok(vec![x[0].bce_with_logits(&x[1], Some(&x[2]))?])
            }),
        ]
    },
    reference: Some(|a| {
        let logits = a.tensor("logits")?;
        let target = a.tensor("target")?.cast(logits.dtype())?;
        Ok(only("loss", logits.bce_with_logits(&target, a.optional("pos_weight"))?))
    }),
    ..OpSpec::BARE
};

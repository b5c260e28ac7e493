//! `+ - * /` on tensors and numbers, broadcasting: `(&a + &b)?` is `a.add(&b)?`. Results are what the methods return, because shapes
//! may not fit, and can be operands themselves: `(&a * &b + &c)?`.

use std::{
    borrow::Borrow,
    ops::{Add, Div, Mul, Neg, Sub},
};

use crate::{error::Result, tensor::Tensor};

/// What stands at either side of an operator: a tensor, a reference to one, or what an operator gave.
trait Operand {
    fn with<R>(self, f: impl FnOnce(&Tensor) -> Result<R>) -> Result<R>;
}

impl Operand for Tensor {
    fn with<R>(self, f: impl FnOnce(&Tensor) -> Result<R>) -> Result<R> {
        f(&self)
    }
}

impl Operand for &Tensor {
    fn with<R>(self, f: impl FnOnce(&Tensor) -> Result<R>) -> Result<R> {
        f(self)
    }
}

impl<T: Borrow<Tensor>> Operand for Result<T> {
    fn with<R>(self, f: impl FnOnce(&Tensor) -> Result<R>) -> Result<R> {
        f(self?.borrow())
    }
}

macro_rules! operator {
    ($trait:ident $method:ident: $($left:ty, $right:ty;)*) => {
        $(impl $trait<$right> for $left {
            type Output = Result<Tensor>;

            fn $method(self, right: $right) -> Result<Tensor> {
                self.with(|a| right.with(|b| Tensor::$method(a, b)))
            }
        })*
    };
}

/// An operator with a number, at either side.
macro_rules! with_number {
    ($trait:ident $method:ident: $right:expr, $left:expr; $($tensor:ty),*) => {
        $(impl $trait<f64> for $tensor {
            type Output = Result<Tensor>;

            fn $method(self, number: f64) -> Result<Tensor> {
                self.with(|x| $right(x, number))
            }
        }

        impl $trait<$tensor> for f64 {
            type Output = Result<Tensor>;

            fn $method(self, x: $tensor) -> Result<Tensor> {
                x.with(|x| $left(x, self))
            }
        })*
    };
}

macro_rules! operators {
    ($($trait:ident $method:ident: $right:expr, $left:expr;)*) => {
        $(
            operator! {
                $trait $method:
                &Tensor, &Tensor;
                &Tensor, Tensor;
                Tensor, &Tensor;
                Tensor, Tensor;
                &Tensor, Result<Tensor>;
                Tensor, Result<Tensor>;
                Result<Tensor>, &Tensor;
                Result<Tensor>, Tensor;
            }
            with_number!($trait $method: $right, $left; &Tensor, Tensor);
        )*
    };
}

operators! {
    Add add: Tensor::shift, Tensor::shift;
    Sub sub: |x: &Tensor, number: f64| x.shift(-number), |x: &Tensor, number: f64| x.affine(-1.0, number);
    Mul mul: Tensor::scale, Tensor::scale;
    Div div: |x: &Tensor, number: f64| x.scale(1.0 / number), |x: &Tensor, number: f64| {
        Tensor::full(number, [1], x.dtype(), x.device())?.div(x)
    };
}

impl Neg for &Tensor {
    type Output = Result<Tensor>;

    fn neg(self) -> Result<Tensor> {
        Tensor::neg(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Device;

    #[test]
    fn operators_are_the_methods() {
        let x = |values: &[f32]| Tensor::from_vec(values.to_vec(), [values.len()], &Device::cpu()).unwrap();
        let (a, b, one) = (x(&[1.0, -2.0]), x(&[4.0, 0.5]), x(&[3.0]));
        let values = |y: Result<Tensor>| y.and_then(|y| y.to_vec::<f32>()).unwrap();
        assert_eq!(values(&a + &b), [5.0, -1.5]);
        assert_eq!(values(&a * &b - &one), [1.0, -4.0]);
        assert_eq!(values(&one - &a * &b), [-1.0, 4.0]);
        assert_eq!(values(a.clone() / b.clone() + one), [3.25, -1.0]);
        assert_eq!(values(-&a), [-1.0, 2.0]);
        assert_eq!(values(&a + 1.0), [2.0, -1.0]);
        assert_eq!(values(1.0 - &a), [0.0, 3.0]);
        assert_eq!(values(2.0 / &b), [0.5, 4.0]);
        assert_eq!(values(&b / 2.0), [2.0, 0.25]);
        assert!((&a + &x(&[1.0, 2.0, 3.0])).unwrap_err().to_string().contains("add"));
    }
}

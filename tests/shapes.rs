//! Operations that only move elements, on random shapes: every one against its inverse or against plain indexing.

use isg::{DType, Device, Result, Shape, Tensor};
use proptest::prelude::*;

/// Up to four axes of up to nine.
fn shapes() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(1usize..=9, 1..=4)
}

/// 0, 1, 2, .. of a shape.
fn counted(shape: &[usize]) -> Result<Tensor> {
    let count = shape.iter().product::<usize>();
    Tensor::from_vec((0..count as i32).collect(), Shape::from(shape), &Device::cpu())
}

/// The index of the element `flat` along every axis.
fn place(mut flat: usize, shape: &[usize]) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for axis in (0..shape.len()).rev() {
        at[axis] = flat % shape[axis];
        flat /= shape[axis];
    }
    at
}

fn flat(at: &[usize], shape: &[usize]) -> usize {
    at.iter().zip(shape).fold(0, |flat, (at, extent)| flat * extent + at)
}

fn ints(t: &Tensor) -> Vec<i32> {
    t.to_vec::<i32>().expect("i32 tensors hold i32")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn permute_moves_every_element_to_its_place(
        (shape, axes) in shapes().prop_flat_map(|s| { let n = s.len(); (Just(s), Just((0..n).collect::<Vec<_>>()).prop_shuffle()) })
    ) {
        let x = counted(&shape).unwrap();
        let y = x.permute(&axes).unwrap();
        let y_shape: Vec<usize> = axes.iter().map(|&axis| shape[axis]).collect();
        prop_assert_eq!(&y.shape()[..], &y_shape[..]);
        for (i, &value) in ints(&y).iter().enumerate() {
            let (to, mut from) = (place(i, &y_shape), vec![0; shape.len()]);
            axes.iter().zip(to).for_each(|(&axis, at)| from[axis] = at);
            prop_assert_eq!(value as usize, flat(&from, &shape));
        }
        let mut inverse = vec![0; axes.len()];
        axes.iter().enumerate().for_each(|(i, &axis)| inverse[axis] = i);
        prop_assert_eq!(ints(&y.permute(&inverse).unwrap()), ints(&x));
    }

    #[test]
    fn slices_put_together_are_the_whole(
        (shape, axis, cut) in shapes().prop_flat_map(|s| { let n = s.len(); (Just(s), 0..n) })
            .prop_flat_map(|(s, axis)| { let extent = s[axis]; (Just(s), Just(axis), 0..=extent) })
    ) {
        let x = counted(&shape).unwrap();
        let (low, high) = (x.slice(axis, 0, cut).unwrap(), x.slice(axis, cut, shape[axis] - cut).unwrap());
        prop_assert_eq!(ints(&Tensor::concat(&[&low, &high], axis).unwrap()), ints(&x));
        let padded = high.pad_with_zeros(axis, cut, shape[axis]).unwrap();
        for (i, (&whole, &part)) in ints(&x).iter().zip(&ints(&padded)).enumerate() {
            prop_assert_eq!(part, if place(i, &shape)[axis] < cut { 0 } else { whole });
        }
        prop_assert!(x.slice(axis, cut, shape[axis] - cut + 1).is_err());
    }

    #[test]
    fn broadcasting_follows_the_rule_of_indices(
        (shape, ones, drop) in shapes().prop_flat_map(|s| { let n = s.len(); (Just(s), prop::collection::vec(any::<bool>(), n), 0..n) })
    ) {
        // A part of the shape: leading axes left out, some others of extent one.
        let part: Vec<usize> = shape.iter().zip(&ones).skip(drop).map(|(&e, &one)| if one { 1 } else { e }).collect();
        let x = counted(&part).unwrap().cast(DType::F64).unwrap();
        let y = x.broadcast_to(Shape::from(&shape[..])).unwrap();
        let zeros = Tensor::zeros(Shape::from(&shape[..]), DType::F64, &Device::cpu()).unwrap();
        prop_assert_eq!(y.to_vec::<f64>().unwrap(), zeros.add(&x).unwrap().to_vec::<f64>().unwrap());
        for (i, value) in y.to_vec::<f64>().unwrap().into_iter().enumerate() {
            let from: Vec<usize> = place(i, &shape)[drop..].iter().zip(&part).map(|(&at, &e)| if e == 1 { 0 } else { at }).collect();
            prop_assert_eq!(value as usize, flat(&from, &part));
        }
        let back = y.sum_to(x.shape()).unwrap().to_vec::<f64>().unwrap();
        let repeats = (y.shape().elems() / x.shape().elems()) as f64;
        for (sum, value) in back.into_iter().zip(x.to_vec::<f64>().unwrap()) {
            prop_assert_eq!(sum, value * repeats);
        }
    }

    #[test]
    fn reshape_keeps_the_order(shape in shapes(), split in 1usize..5) {
        let x = counted(&shape).unwrap();
        let count = x.shape().elems();
        let y = x.reshape([count]).unwrap();
        prop_assert_eq!(ints(&y), ints(&x));
        prop_assert_eq!(x.reshape([split, count]).is_ok(), split == 1);
        prop_assert_eq!(x.as_rows().unwrap().shape(), Shape::from([count / shape[shape.len() - 1], shape[shape.len() - 1]]));
    }

    #[test]
    fn gathered_rows_are_the_rows_named(
        (shape, indices) in shapes().prop_flat_map(|s| { let rows = s[0] as i32; (Just(s), prop::collection::vec(0..rows, 0..20)) })
    ) {
        let x = counted(&shape).unwrap();
        let index = Tensor::from_vec(indices.clone(), [indices.len()], &Device::cpu()).unwrap();
        let y = ints(&x.gather_rows(&index).unwrap());
        let width: usize = shape[1..].iter().product();
        for (row, &i) in y.chunks(width).zip(&indices) {
            prop_assert_eq!(row, &ints(&x)[i as usize * width..][..width]);
        }
        let ones = Tensor::full(1.0, Shape::from([indices.len(), 2]), DType::F64, &Device::cpu()).unwrap();
        let counts = ones.scatter_add_rows(&index, shape[0]).unwrap().to_vec::<f64>().unwrap();
        for (row, count) in counts.chunks(2).enumerate() {
            let wanted = indices.iter().filter(|&&i| i as usize == row).count() as f64;
            prop_assert_eq!(count, &[wanted, wanted][..]);
        }
    }
}

#[test]
fn shapes_and_indices_that_do_not_fit_are_refused() -> Result<()> {
    let device = Device::cpu();
    let x = counted(&[2, 3])?;
    assert!(x.permute(&[0, 0]).is_err() && x.permute(&[1]).is_err() && x.permute(&[0, 2]).is_err());
    assert!(x.slice(2, 0, 1).is_err() && x.slice(1, usize::MAX, 2).is_err());
    assert!(x.pad_with_zeros(0, 1, 2).is_err() && x.pad_with_zeros(0, 0, usize::MAX).is_err());
    assert!(Tensor::concat(&[], 0).is_err());
    assert!(Tensor::concat(&[&x, &counted(&[3, 2])?], 0).is_err() && Tensor::concat(&[&x], 2).is_err());
    for bad in [2, -1, i32::MIN] {
        let index = Tensor::from_vec(vec![0, bad], [2], &device)?;
        assert!(x.gather_rows(&index).is_err(), "{bad}");
        assert!(x.cast(DType::F32)?.scatter_add_rows(&index, 2).is_err(), "{bad}");
    }
    assert!(x.gather_rows(&x).is_err());
    let float = x.cast(DType::F32)?;
    assert!(float.bias_act(Some(&float), isg::ops::bias_act::Activation::Relu, Default::default()).is_err());
    assert!(float.mse_loss(&float.slice(0, 0, 1)?).is_err(), "losses do not broadcast");
    assert!(float.dropout(1.0, isg::random::Philox::new(0, 0), 0).is_err());
    assert!(float.slice(0, 0, 1)?.batch_norm2d_train(&float, &float, 1e-5).is_err());
    Ok(())
}

#[test]
fn empty_tensors_pass_through() -> Result<()> {
    let device = Device::cpu();
    let empty = Tensor::zeros([0, 3], DType::F32, &device)?;
    assert_eq!(empty.permute(&[1, 0])?.shape(), Shape::from([3, 0]));
    assert_eq!(empty.relu()?.softmax()?.square()?.sum(&[0])?.to_vec::<f32>()?, [0.0; 3]);
    let three = Tensor::full(2.0, [1, 3], DType::F32, &device)?;
    assert_eq!(Tensor::concat(&[&empty, &three], 0)?.to_vec::<f32>()?, [2.0; 3]);
    let weight = Tensor::full(1.0, [3], DType::F32, &device)?;
    assert_eq!(empty.layer_norm(&weight, &weight, 1e-5)?.shape(), Shape::from([0, 3]));
    Ok(())
}

#[test]
fn casts_round_and_saturate() -> Result<()> {
    let device = Device::cpu();
    let x = Tensor::from_vec(vec![-1.5f32, 0.5, 1.5, 254.6, 300.0], [5], &device)?;
    assert_eq!(x.cast(DType::U8)?.to_vec::<u8>()?, [0, 0, 2, 255, 255]);
    assert_eq!(x.cast(DType::I32)?.to_vec::<i32>()?, [-2, 0, 2, 255, 300]);
    assert_eq!(x.cast(DType::Bf16)?.cast(DType::F32)?.to_vec::<f32>()?, [-1.5, 0.5, 1.5, 255.0, 300.0]);
    Ok(())
}

//! Tensor maps as TMA reads them.

use std::ffi::c_void;

use cudarc::driver::sys::{self, CUtensorMapDataType as Type, CUtensorMapSwizzle as Swizzle};

use super::errors::check;
use crate::{
    device::driver::TensorMap,
    dtype::DType,
    error::{Error, Result},
};

/// The 128 bytes that a kernel hands to TMA.
///
/// # Errors
/// `Device` where the map does not hang together, or the driver refuses it.
pub(super) fn encode(map: &TensorMap) -> Result<[u8; 128]> {
    let dtype = match map.dtype {
        DType::F64 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT64,
        DType::F32 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        DType::Bf16 => Type::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        DType::F16 => Type::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        DType::U8 => Type::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        DType::I32 => Type::CU_TENSOR_MAP_DATA_TYPE_INT32,
    };
    let swizzle = match map.swizzle_bytes {
        0 => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        32 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        64 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        128 => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        other => return Err(Error::Device(format!("cuda: a tensor map has no swizzle of {other} bytes"))),
    };
    let rank = map.extents.len();
    if !(1..=5).contains(&rank) || map.strides_bytes.len() + 1 != rank || map.box_extents.len() != rank {
        return Err(Error::Device(format!("cuda: a tensor map of {rank} extents does not hang together")));
    }
    let mut encoded = sys::CUtensorMap { opaque: [0; 16] };
    let ones = [1u32; 5];
    // SAFETY: extents, box and element strides have `rank` entries, strides one less; all outlive the call.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut encoded,
            dtype,
            rank as u32,
            map.base.0 as *mut c_void,
            map.extents.as_ptr(),
            map.strides_bytes.as_ptr(),
            map.box_extents.as_ptr(),
            ones.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    check(result, &format!("encoding a tensor map of extents {:?}", map.extents))?;
    let mut bytes = [0; 128];
    bytes.copy_from_slice(bytemuck::cast_slice(&encoded.opaque));
    Ok(bytes)
}

#!/bin/sh
# Thread instructions checked in a second of one core, over kernels of the library around this crate: elementwise,
# reductions, products, attention, a compressor, movement. Everything checked; the median of REPEATS launches each.
# A kernel whose parameters have changed since says so and is left out. From the root of the repository: tools/ptx-emulator/benches/library.sh [REPEATS]
set -e
repeats=${1:-7}
cargo build --quiet --release -p ptx-emulator --features cli
run() { file=$1; shift; target/release/ptx-run "kernels/ptx/$file.ptx" --times "$repeats" "$@" || true; }
null=u64=0
epilogue="$null,$null,$null,$null,$null,f32=1,f32=1,f32=inf,u32=0"
all() {
run unary unary_exp_f32 --grid 64 --block 256 "struct(f32:65536=random,f32:65536=none,u64=65536,f32=1,f32=0)"
run bias_act bias_act_fwd_f32 --grid 64 --block 256 \
  "struct($null,f32:65536=random,f32:256=random,f32:65536=none,u32=65536,u32=256,u32=5,f32=0,f32=1,f32=inf,u32=1,u32=0)"
run sum sum_rows_f32 --grid 128 --block 256 \
  "struct(f32:524288=random,f32:1024=none,u64=1024,u64=512,u64=1,u64=512,u64=1,u32=1,u32=1,u32=0,u32=0)"
run sum sum_columns_f32 --grid 32 --block 256 \
  "struct(f32:524288=random,f32:4096=none,u64=8,u64=128,u64=512,u64=128,u64=1,u32=1,u32=4,u32=0,u32=0)"
run softmax softmax_fwd_f32 --grid 128 --block 256 \
  "struct(f32:524288=random,$null,f32:524288=none,u64=1024,u64=512,u32=1,u32=0)"
run softmax softmax_fwd_bf16 --grid 128 --block 256 \
  "struct(bf16:524288=random,$null,bf16:524288=none,u64=1024,u64=512,u32=1,u32=0)"
run layer_norm layer_norm_fwd_f32 --grid 128 --block 256 \
  "struct(f32:524288=random,f32:512=random,f32:512=random,f32:524288=none,$null,$null,$null,$null,$null,$null,u64=1024,u64=512,f32=0.00001,u32=1,u32=64,u32=16,u32=4,u32=0)"
run layer_norm layer_norm_bwd_x_f32 --grid 128 --block 256 \
  "struct(f32:524288=random,f32:512=random,$null,$null,f32:524288=random,f32:524288=none,f32:2048=none,$null,$null,$null,u64=1024,u64=512,f32=0.00001,u32=1,u32=64,u32=16,u32=4,u32=0)"
run batch_norm2d batch_norm2d_parts_f32 --grid 32 --block 256 \
  "struct(f32:524288=random,$null,$null,$null,$null,$null,$null,$null,$null,$null,$null,$null,f32:16384=none,$null,u64=4096,u32=128,u32=128,u32=32,u32=1,u32=131072,f32=0.00001,f32=1,u32=1,u32=1,u32=1,u32=1,u32=0)"
for kind in f32 tf32_f32; do
run matmul matmul_fwd_nn_small_$kind --grid 16 --block 128 --shared 29184 \
  "struct(f32:65536=random,f32:65536=random,f32:65536=none,$null,u64=65536,u64=65536,u64=256,u64=256,$epilogue,u32=256,u32=256,u32=256,u32=1,u32=4,u32=4,u32=256,u32=4,u32=4,u32=4)"
done
run matmul matmul_fwd_nn_small_bf16 --grid 16 --block 128 --shared 29184 \
  "struct(bf16:65536=random,bf16:65536=random,bf16:65536=none,$null,u64=65536,u64=65536,u64=256,u64=256,$epilogue,u32=256,u32=256,u32=256,u32=1,u32=4,u32=4,u32=256,u32=8,u32=8,u32=4)"
for kind in f32 bf16; do
size=$( [ $kind = f32 ] && echo 52224 || echo 46080 )
run attention attention_fwd_d64_$kind --grid 4,2 --block 128 --shared $size \
  "struct($kind:32768=random,$kind:32768=random,$kind:32768=random,$kind:32768=none,f32:512=none,$null,$null,$null,$null,$null,$null,u64=64,u64=16384,u64=32768,u64=64,u64=16384,u64=32768,u64=64,u64=16384,u64=32768,u64=64,u64=16384,u64=32768,u64=256,u64=512,u32=256,u32=256,u32=1,u32=64,u32=64,u32=1,f32=0.125,u32=0)"
done
run shannon shannon_score --grid 1 --block 512 --shared 85120 \
  "struct(u8:49152=@kernels/ptx/shannon.ptx,u64:1=0,u32=128,u32=128,u32=1,u32=1)"
run gather gather_fwd --grid 256 --block 256 \
  "struct(f32:262144=random,i32:512=ramp,f32:262144=none,u32=65536,u32=16,u32=128,u32=16777217,u32=38,u32=512)"
run permute permute_tiles --grid 256 --block 256 \
  "struct(f32:262144=random,f32:262144=none,u32=512,u32=512,u64=512,u64=512,u32=16,u32=134217729,u32=35,u32=16,u32=134217729,u32=35,u32=1,u32=1,u32=31,u32=1,u32=1,u32=31,u32=1,u32=1,u32=31,u32=1,u32=1,u32=31,u32=1,u32=1,u32=31,u32=0,u64=0,u64=0,u64=0,u64=0,u64=0,u64=0,u64=0,u64=0,u64=0,u64=0,u64=0,u64=0,u32=4,u32=0)"
}
all | awk '{ print; m += $2; ms += $5; log_sum += log($7); n++ }
  END { printf "%-32s %9.2f M in %9.2f ms %7.0f M/s; geometric mean %.0f M/s\n", "all", m, ms, 1e3 * m / ms, exp(log_sum / n) }'

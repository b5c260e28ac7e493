//! One source, several instruction sets: loops written plainly, compiled for AVX-512, AVX2 and the baseline, chosen at run
//! time. The arithmetic is integer, so every version gives the same bytes.

/// Declares a function whose body the compiler vectorises for the widest instruction set of the machine it runs on.
macro_rules! vectorised {
    ($(#[$attribute:meta])* $visibility:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$attribute])*
        $visibility fn $name($($argument: $type),*) {
            #[inline(always)]
            fn body($($argument: $type),*) $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx2,bmi2")]
                fn avx512($($argument: $type),*) { body($($argument),*) }
                #[target_feature(enable = "avx2,bmi2")]
                fn avx2($($argument: $type),*) { body($($argument),*) }

                if std::arch::is_x86_feature_detected!("avx512bw")
                    && std::arch::is_x86_feature_detected!("avx512vl")
                    && std::arch::is_x86_feature_detected!("avx512dq")
                    && std::arch::is_x86_feature_detected!("bmi2")
                {
                    // SAFETY: the features that `avx512` is compiled for were detected on this machine just above
                    // (AVX-512BW implies AVX-512F and AVX2); the body itself is safe code.
                    return unsafe { avx512($($argument),*) };
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("bmi2") {
                    // SAFETY: AVX2 and BMI2 were detected on this machine just above; the body itself is safe code.
                    return unsafe { avx2($($argument),*) };
                }
            }
            body($($argument),*)
        }
    };
}

pub(crate) use vectorised;

//! What the paper prints in its tables 1 to 6, for the place beside what a run of one's own gives.

#![allow(clippy::approx_constant, reason = "a correlation of 0.318 is not 1/π")]

/// The sixteen columns of tables 1 and 2: project and gene, in the paper's order and by today's symbols (its CD20 is MS4A1,
/// its MK167 is MKI67).
pub const COLUMNS: [(&str, &str); 16] = [
    ("LIHC", "CD3D"),
    ("LIHC", "CD247"),
    ("LIHC", "CD3E"),
    ("LIHC", "CD3G"),
    ("LIHC", "MS4A1"),
    ("LIHC", "CD19"),
    ("LIHC", "MKI67"),
    ("COAD", "CD3D"),
    ("COAD", "CD247"),
    ("COAD", "CD3E"),
    ("COAD", "CD3G"),
    ("COAD", "MS4A1"),
    ("COAD", "CD19"),
    ("PRAD", "TP63"),
    ("PRAD", "KRT8"),
    ("PRAD", "KRT18"),
];

/// A row of table 1 or 2: what this library calls the arm, the paper's name, its sixteen correlations and their average as
/// printed.
pub struct Row {
    pub arm: &'static str,
    pub name: &'static str,
    pub pearson: [f64; 16],
    pub average: f64,
}

/// Table 1: methods.
pub const METHODS: [Row; 6] = [
    Row {
        arm: "he2rna",
        name: "HE2RNA",
        pearson: [
            0.400, 0.410, 0.410, 0.370, 0.320, 0.270, 0.470, 0.430, 0.390, 0.410, 0.390, 0.200, 0.110, 0.180, 0.120,
            0.120,
        ],
        average: 0.313,
    },
    Row {
        arm: "vit-s",
        name: "ViT-S",
        pearson: [
            0.193, 0.252, 0.256, 0.279, 0.258, 0.187, 0.189, 0.260, 0.291, 0.312, 0.300, 0.314, 0.280, 0.065, 0.153,
            0.151,
        ],
        average: 0.234,
    },
    Row {
        arm: "vit-mb",
        name: "ViT-MB",
        pearson: [
            0.337, 0.388, 0.378, 0.345, 0.360, 0.361, 0.464, 0.351, 0.379, 0.382, 0.370, 0.379, 0.383, 0.207, 0.154,
            0.165,
        ],
        average: 0.338,
    },
    Row {
        arm: "cyclemlp",
        name: "CycleMLP",
        pearson: [
            0.343, 0.364, 0.396, 0.374, 0.353, 0.352, 0.348, 0.320, 0.347, 0.378, 0.377, 0.372, 0.378, 0.203, 0.140,
            0.187,
        ],
        average: 0.327,
    },
    Row {
        arm: "mpvit",
        name: "MPViT",
        pearson: [
            0.365, 0.358, 0.377, 0.350, 0.379, 0.356, 0.491, 0.311, 0.361, 0.371, 0.352, 0.374, 0.413, 0.205, 0.142,
            0.199,
        ],
        average: 0.338,
    },
    Row { arm: "isg", name: "ISG", pearson: ISG, average: 0.435 },
];

const ISG: [f64; 16] =
    [0.486, 0.498, 0.533, 0.524, 0.425, 0.440, 0.597, 0.415, 0.470, 0.468, 0.445, 0.385, 0.432, 0.235, 0.264, 0.348];

/// Table 2: patch selectors.
pub const SELECTORS: [Row; 7] = [
    Row {
        arm: "gradient",
        name: "ISG-IG",
        pearson: [
            0.412, 0.428, 0.477, 0.485, 0.432, 0.426, 0.578, 0.428, 0.434, 0.457, 0.449, 0.378, 0.342, 0.210, 0.163,
            0.277,
        ],
        average: 0.398,
    },
    Row {
        arm: "canny",
        name: "ISG-CANNY",
        pearson: [
            0.473, 0.445, 0.511, 0.484, 0.373, 0.396, 0.583, 0.400, 0.436, 0.436, 0.438, 0.340, 0.341, 0.190, 0.249,
            0.318,
        ],
        average: 0.401,
    },
    Row {
        arm: "dexined",
        name: "ISG-Dex",
        pearson: [
            0.436, 0.437, 0.503, 0.493, 0.428, 0.433, 0.576, 0.386, 0.423, 0.442, 0.427, 0.338, 0.362, 0.189, 0.245,
            0.315,
        ],
        average: 0.402,
    },
    Row {
        arm: "dog",
        name: "ISG-DoG",
        pearson: [
            0.468, 0.431, 0.490, 0.457, 0.411, 0.414, 0.591, 0.382, 0.431, 0.422, 0.421, 0.350, 0.351, 0.209, 0.273,
            0.343,
        ],
        average: 0.403,
    },
    Row {
        arm: "log",
        name: "ISG-LoG",
        pearson: [
            0.338, 0.293, 0.316, 0.337, 0.305, 0.323, 0.354, 0.181, 0.235, 0.216, 0.207, 0.243, 0.199, 0.136, 0.155,
            0.202,
        ],
        average: 0.253,
    },
    Row {
        arm: "otsu",
        name: "ISG-Otsu",
        pearson: [
            0.398, 0.410, 0.450, 0.423, 0.395, 0.378, 0.559, 0.375, 0.398, 0.416, 0.432, 0.375, 0.326, 0.209, 0.225,
            0.300,
        ],
        average: 0.380,
    },
    Row { arm: "shannon", name: "ISG", pearson: ISG, average: 0.435 },
];

/// A row of a table with one average: an arm, the mean correlation and the mean squared error on targets in [0, 1].
pub struct Average {
    pub arm: &'static str,
    pub name: &'static str,
    pub pearson: f64,
    pub l2: f64,
}

/// Table 4: the threshold of Shannon selection in bits of a patch of 1024 px, on one model for all tasks.
pub const THRESHOLDS: [Average; 3] = [
    Average { arm: "bits-8e5", name: "8 × 10⁵", pearson: 0.386, l2: 0.024 },
    Average { arm: "bits-1.6e6", name: "1.6 × 10⁶", pearson: 0.390, l2: 0.023 },
    Average { arm: "bits-2.4e6", name: "2.4 × 10⁶", pearson: 0.373, l2: 0.025 },
];

/// Table 6: ISG-a-b has a MBConv blocks with a fusion block after every b-th. The paper prints 0.00231 for the error of
/// ISG-8-2 and calls ISG-6-2's 0.0229 the best: a digit too many.
pub const ARCHITECTURES: [Average; 7] = [
    Average { arm: "isg-6-2", name: "ISG-6-2", pearson: 0.3723, l2: 0.0229 },
    Average { arm: "isg-8-2", name: "ISG-8-2", pearson: 0.3750, l2: 0.0231 },
    Average { arm: "isg-10-2", name: "ISG-10-2", pearson: 0.3908, l2: 0.0234 },
    Average { arm: "isg-12-2", name: "ISG-12-2", pearson: 0.3601, l2: 0.0233 },
    Average { arm: "isg-14-2", name: "ISG-14-2", pearson: 0.3263, l2: 0.0239 },
    Average { arm: "isg-10-1", name: "ISG-10-1", pearson: 0.2488, l2: 0.0262 },
    Average { arm: "isg-10-3", name: "ISG-10-3", pearson: 0.3628, l2: 0.0235 },
];

/// Table 3: area under the ROC curve of microsatellite instability, by arm, in the paper's three data sets.
pub const INSTABILITY: [(&str, &str, [f64; 3]); 3] = [
    ("isg", "ISG", [0.86, 0.87, 0.78]),
    ("he2rna", "HE2RNA", [0.82, 0.83, 0.76]),
    ("msifromhe", "MSIfromHE", [0.77, 0.84, 0.81]),
];

/// Table 5: a two-layer MLP on an encoder's vectors: pooled over a slide of TCGA, and of single spots of STNet.
pub const PROBES: [(&str, &str, Option<f64>, Option<f64>); 3] = [
    ("resnet50", "ResNet50 (pretrained)", Some(0.123), Some(0.036)),
    ("isg", "Feature extraction network (pretrained)", Some(0.223), Some(0.178)),
    ("resnet50-finetuned", "ResNet50 (finetuned)", None, Some(0.162)),
];

/// Section 4.1: seconds a slide, inference alone, over 100 slides on one GPU.
pub const SECONDS: [(&str, &str, f64); 2] = [("isg", "ISG", 246.0), ("he2rna", "HE2RNA", 302.0)];

#[cfg(test)]
mod tests {
    use super::*;

    /// The paper's averages are those of its columns.
    #[test]
    fn averages_are_of_their_columns() {
        for row in METHODS.iter().chain(&SELECTORS) {
            let mean = row.pearson.iter().sum::<f64>() / 16.0;
            assert!((mean - row.average).abs() < 0.0011, "{}: {mean} against {}", row.name, row.average);
        }
    }
}

//! Tables of predictions: what is read, and what is refused with its line.

use isg::eval::{
    predictions::{PredictionTable, read, read_methods, write},
    tables::Method,
};

fn reading(text: &str) -> isg::Result<PredictionTable> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("predictions.csv");
    std::fs::write(&path, text).unwrap();
    read(&path)
}

fn refused(text: &str, words: &[&str]) {
    let message = reading(text).map(drop).expect_err(text).to_string();
    assert!(!message.contains('\n') && message.contains("predictions.csv"), "{message}");
    words.iter().for_each(|word| assert!(message.contains(word), "{word} in: {message}"));
}

const ROWS: [&str; 5] = ["s0,p0,0,G,0.5,1.25", "s1,p1,1,G,1,2", "s2,p2,0,G,1.5,2.5", "s3,p3,1,G,2,3", "s4,p4,0,G,NA,1"];

fn table(rows: &[&str]) -> String {
    format!("slide,patient,fold,gene,truth,predicted\n{}\n", rows.join("\n"))
}

#[test]
fn separators_names_and_folds_are_read_as_people_write_them() {
    let plain = reading(&table(&ROWS)).unwrap();
    assert_eq!((plain.genes.len(), plain.predictions.len(), plain.without_truth), (1, 5, 1));
    assert!(plain.remarks()[0].contains("1 of 5 lines"));
    // As text, because NaN equals nothing, not even itself.
    let shown = |table: &PredictionTable| format!("{table:?}");
    let again = |text: String| assert_eq!(shown(&reading(&text).unwrap()), shown(&plain), "{text}");
    again(table(&ROWS).replace(',', "\t"));
    again(table(&ROWS).replace(',', ";"));
    again(
        table(&ROWS)
            .replace(',', ";")
            .replace("0.5", "0,5")
            .replace("1.5", "1,5")
            .replace("2.5", "2,5")
            .replace("1.25", "1,25"),
    );
    again(format!("\u{feff}{}", table(&ROWS).replace('\n', "\r\n")));
    again(table(&ROWS).replace(",0,G", ",fold0,G").replace(",1,G", ",fold_1,G"));
    again(table(&ROWS).replace(",0,G", ",0.0,G").replace(",1,G", ",1.0,G"));
    again(table(&ROWS).replace("NA", "inf"));
    again(table(&ROWS).replace("slide,patient", "slide_id,case_id").replace("predicted", "Prediction"));
    let repeated = reading(&table(&[&ROWS[..], &ROWS[1..2]].concat())).unwrap();
    assert_eq!((repeated.predictions.len(), repeated.repeated_lines), (5, 1));
}

#[test]
fn what_is_no_table_of_predictions_is_refused_with_its_place() {
    let with = |line: &str| table(&[&ROWS[..], &[line]].concat());
    refused(&with("s0,p0,0,G,99,0"), &["s0", "gene G", "lines 2 and 7", "repeat"]);
    refused(&with("s0,p0,1,G,0.5,1"), &["patient p0", "folds 0 and 1", "repeat"]);
    refused(&with("s9,p0,1,G,0.5,1"), &["patient p0", "folds 0 and 1"]);
    refused(&with("s0,p9,0,H,0.5,1"), &["s0", "patient p0", "line 2", "patient p9", "line 7"]);
    refused(&with("s9,p9,0,G,high,1"), &["line 7", "column truth", "\"high\""]);
    refused(&with("s9,p9,0,G,1,low"), &["line 7", "column predicted", "\"low\""]);
    refused(&with("s9,p9,0,G,1,"), &["line 7", "column predicted"]);
    refused(&with("s9,p9,0,G,1,nan"), &["line 7", "column predicted"]);
    refused(&with("s9,p9,0,G,\"0,5\",1"), &["line 7", "column truth", "decimal commas"]);
    refused(&with("s9,p9,0,G,0,5,1"), &["line 7", "7 fields", "semicolons"]);
    refused(&with("s9,\"p9,0,G,1,1"), &["line 7"]);
    refused(&with("s9,p9,first,G,1,1"), &["line 7", "column fold", "\"first\"", "fold0"]);
    refused(&with("s9,p9,-1,G,1,1"), &["line 7", "column fold"]);
    refused(&with("s9,p9,1.5,G,1,1"), &["line 7", "column fold"]);
    refused(&with(",p9,0,G,1,1"), &["line 7", "column slide", "empty"]);
    refused(&with("s9,p9,0,G,1"), &["line 7", "5 fields"]);
    refused(&table(&[]), &["no prediction"]);
    refused("slide,patient,gene,predicted\ns,p,G,1\n", &["truth"]);
    refused("slide,patient,gene,truth,Truth,predicted\ns,p,G,1,1,1\n", &["two columns", "truth"]);
    refused(
        "slide,patient,project,gene,truth,predicted\ns,p,A,G,1,1\ns,p,B,H,1,1\n",
        &["project \"A\"", "project \"B\""],
    );
    refused("slide,patient,gene,truth,predicted,target_span\ns,p,G,1,1,0\n", &["line 2", "target_span"]);
}

#[test]
fn repeats_are_told_apart_and_share_their_truth() {
    let header = "slide,patient,repeat,fold,gene,truth,predicted\n";
    let text = format!("{header}s0,p0,0,0,G,1,2\ns0,p0,1,3,G,1,4\n");
    let table = reading(&text).unwrap();
    let numbers: Vec<(usize, usize, f64)> =
        table.predictions.iter().map(|p| (p.repeat, p.fold, p.predicted[0])).collect();
    assert_eq!(numbers, [(0, 0, 2.0), (1, 3, 4.0)]);
    refused(&text.replace("G,1,4", "G,1.5,4"), &["s0", "gene G", "1.5", "one truth"]);
    // A gene that only one repeat has contradicts nothing.
    assert_eq!(reading(&format!("{text}s0,p0,1,3,H,7,4\n")).unwrap().genes, ["G", "H"]);
}

#[test]
fn what_is_written_is_read() {
    let text = "slide,patient,project,repeat,fold,gene,truth,predicted,target_span\n\
                s0,p0,A,0,0,G,1.5,2.25,0.1\ns0,p0,A,0,0,H,,1e-300,\ns0,p0,A,1,0,G,1.5,3,0.3\ns0,p0,A,1,0,H,,4,\n";
    let table = reading(text).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("again.csv");
    let method = Method { name: "predictions", genes: &table.genes, predictions: &table.predictions };
    write(&path, &[method]).unwrap();
    assert_eq!(format!("{:?}", read(&path).unwrap()), format!("{table:?}"));
    assert!(
        std::fs::read_to_string(path)
            .unwrap()
            .starts_with("method,slide,patient,project,repeat,fold,gene,truth,predicted,target_span\n")
    );
}

#[test]
fn methods_of_one_table_are_kept_apart() {
    let text = "method,slide,patient,gene,truth,predicted\nridge,s0,p0,G,1,2\nisg,s0,p0,G,1,1.5\nridge,s1,p1,G,2,3\n";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("several.csv");
    std::fs::write(&path, text).unwrap();
    let methods = read_methods(&path).unwrap();
    let found: Vec<(&str, usize)> = methods.iter().map(|(name, t)| (name.as_str(), t.predictions.len())).collect();
    assert_eq!(found, [("ridge", 2), ("isg", 1)]);
    assert!(read(&path).expect_err("two methods").to_string().contains("2 methods"));
}

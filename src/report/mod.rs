//! Pictures, tables and the self-contained HTML report.

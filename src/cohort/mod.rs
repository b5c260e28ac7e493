//! Expression tables, labels, patients, splits and the feature store.

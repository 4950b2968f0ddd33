//! Cluster tests, see tests/.

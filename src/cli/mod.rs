//! Commands beside the daemon: they work on a state directory that no daemon uses. Only words and exit statuses here.

pub mod db;

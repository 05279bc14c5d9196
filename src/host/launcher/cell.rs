//! What one child is kept in beside what its kind says: a user of its own, and a view of the host's files. Not every host
//! has both; [`Sandbox`](crate::host::sandbox::Sandbox) knows.

use super::{user::User, view::View};

/// Made for one child, and put on by it.
#[derive(Debug, Default)]
pub struct Cell {
    pub user: Option<User>,
    pub view: Option<View>,
}

//! What one child is kept in beside what its kind says: a group of its own, namespaces, a user, and a view of the host's files.
//! Not every host has all; [`Sandbox`](crate::host::sandbox::Sandbox) knows.

use super::{apart::Apart, user::User, view::View};
use crate::host::cgroups::Seat;

/// Made for one child, and put on by it.
#[derive(Debug, Default)]
pub struct Cell {
    pub seat: Option<Seat>,
    pub apart: Apart,
    pub user: Option<User>,
    pub view: Option<View>,
}

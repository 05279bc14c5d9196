//! Users and groups of this host, as its user database knows them. It may have to ask another host: these calls wait.

use std::ffi::CString;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::model::{Grant, Role, Who};

/// The highest of the roles that a user was given, by name, number or group.
pub fn role(uid: u32, grants: &[Grant]) -> Option<Role> {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    let groups = user.as_ref().map(groups_of).unwrap_or_default();
    let is_meant = |who: &Who| match who {
        Who::User(name) => match name.parse::<u32>() {
            Ok(number) => number == uid,
            Err(_) => user.as_ref().is_some_and(|user| user.name == *name),
        },
        Who::Group(name) => gid(name).is_some_and(|gid| groups.contains(&gid)),
        Who::Certificate(_) => false,
    };
    grants.iter().filter(|grant| is_meant(&grant.who)).map(|grant| grant.role).max()
}

fn groups_of(user: &User) -> Vec<Gid> {
    let Ok(name) = CString::new(user.name.as_str()) else { return Vec::new() };
    getgrouplist(&name, user.gid).unwrap_or_default()
}

fn gid(name: &str) -> Option<Gid> {
    match name.parse::<u32>() {
        Ok(number) => Some(Gid::from_raw(number)),
        Err(_) => Group::from_name(name).ok().flatten().map(|group| group.gid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_known_by_name_number_and_group() {
        let nobody = User::from_name("nobody").unwrap().unwrap();
        let group = Group::from_gid(nobody.gid).unwrap().unwrap().name;
        let uid = nobody.uid.as_raw();
        let grants = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Grant>>();
        let by_number = format!("user:{uid}=operator");
        let by_group = format!("group:{group}=admin");
        for (texts, expected) in [
            (&["user:nobody=viewer"][..], Some(Role::Viewer)),
            (&[&by_number, "user:nobody=viewer"], Some(Role::Operator)),
            (&[&by_group], Some(Role::Admin)),
            (&["group:no-such-group=admin", "user:root=admin", "certificate:nobody=admin"], None),
            (&[], None),
        ] {
            assert_eq!(role(uid, &grants(texts)), expected, "{texts:?}");
        }
    }
}

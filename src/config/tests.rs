//! Where settings come from, and what becomes of them.

use super::*;

#[test]
fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("qherd.toml");
    std::fs::write(&file, "listen = \"127.0.0.1:1\"\naccel = \"tcg\"\npath-maps = [\"D:/HyperV=/srv/vms\"]\n").unwrap();
    let flags = Settings { listen: Some("127.0.0.1:2".parse().unwrap()), ..Settings::default() };
    let config = flags.resolve(Some(&file)).unwrap();
    assert_eq!(config.listen.port(), 2);
    assert_eq!(config.accel, Accel::Tcg);
    assert_eq!(config.stop_timeout, 60);
    assert_eq!(config.image_dirs, [config.state_dir.join("bases")]);
    assert_eq!(config.path_maps[0].apply("D:/HyperV/a"), Some("/srv/vms/a".into()));
    assert_eq!(config.path_maps[0].apply("D:/HyperVx"), None);
}

#[test]
fn a_flag_is_never_split_and_a_variable_is_like_path() {
    #[derive(clap::Parser)]
    struct Flags {
        #[command(flatten)]
        settings: Settings,
    }
    let parsed = |words: &[&str]| <Flags as clap::Parser>::parse_from([&["qherd"], words].concat()).settings;
    let mut flags = parsed(&["--image-dir", "/srv/img:2026", "--image-dir", "/b", "--path-map", "D:/a=/x;y"]);
    flags.add_lists_of(|_| Some("/ignored".into())).unwrap();
    assert_eq!(flags.image_dirs, [PathBuf::from("/srv/img:2026"), "/b".into()]);
    assert_eq!(flags.path_maps[0].to, PathBuf::from("/x;y"));
    assert_eq!(flags.storage_dirs, [PathBuf::from("/ignored")]);
    let mut variables = parsed(&[]);
    let value = |name: &str| match name {
        "QHERD_PATH_MAP" => Some("D:/a=/x;E:/=/y".into()),
        _ => Some("/srv/a::/srv/b".into()),
    };
    variables.add_lists_of(value).unwrap();
    assert_eq!(variables.image_dirs, [PathBuf::from("/srv/a"), "/srv/b".into()]);
    assert_eq!(variables.path_maps.len(), 2);
    let bad = |name: &str| (name == "QHERD_PATH_MAP").then(|| "D:/a".into());
    let error = format!("{:#}", parsed(&[]).add_lists_of(bad).unwrap_err());
    assert!(error.contains("QHERD_PATH_MAP") && error.contains("FROM=TO"), "{error}");
}

#[test]
fn the_state_directory_has_one_name_whatever_leads_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(root.join("real/state")).unwrap();
    std::os::unix::fs::symlink(root.join("real"), root.join("link")).unwrap();
    let resolved = |path: &str| {
        let settings = Settings { state_dir: Some(dir.path().join(path)), ..Settings::default() };
        settings.resolve(None).unwrap()
    };
    for path in ["real/state", "link/state", "real/../real/state", "link/state/", "real/./state"] {
        let config = resolved(path);
        assert_eq!(config.state_dir, root.join("real/state"), "{path}");
        assert_eq!(config.storage_dirs, [root.join("real/state/images")], "{path}");
    }
    // One that is to be made.
    assert_eq!(resolved("link/new/deeper").state_dir, root.join("real/new/deeper"));
}

#[test]
fn a_path_map_knows_how_windows_writes_paths() {
    let map: PathMap = "D:\\HyperV\\=/srv/vms".parse().unwrap();
    for (path, to) in [
        ("D:\\HyperV\\web\\disks", Some("/srv/vms/web/disks")),
        ("d:/hyperv/web", Some("/srv/vms/web")),
        ("D:\\HyperV", Some("/srv/vms")),
        ("D:\\HyperVisor", None),
        ("D:\\Größe", None),
        ("/HyperV", None),
    ] {
        assert_eq!(map.apply(path), to.map(PathBuf::from), "{path}");
    }
    let unix: PathMap = "/client=/srv/vms".parse().unwrap();
    assert_eq!(unix.apply("/CLIENT/x"), None);
    assert_eq!(unix.apply("/client/a\\b"), Some("/srv/vms/a\\b".into()));
    assert!(is_windows("C:") && !is_windows("C:x") && !is_windows("/C:/") && is_windows("\\\\nas\\vms"));
}

#[test]
fn a_misspelt_setting_is_refused_with_its_name() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("qherd.toml");
    std::fs::write(&file, "listne = \"127.0.0.1:1\"\n").unwrap();
    let error = format!("{:#}", Settings::default().resolve(Some(&file)).unwrap_err());
    assert!(error.contains("listne"), "{error}");
}

#[test]
fn the_example_configuration_is_valid() {
    let text = include_str!("../../templates/qherd.toml");
    toml::from_str::<Settings>(text).unwrap();
    // Also with every example line switched on.
    let all: String = text
        .lines()
        .map(|l| l.strip_prefix("# ").filter(|l| l.contains(" = ")).unwrap_or(l))
        .fold(String::new(), |all, line| all + line + "\n");
    toml::from_str::<Settings>(&all).unwrap();
}

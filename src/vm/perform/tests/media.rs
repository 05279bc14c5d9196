//! The medium in the drive.

use super::*;

#[tokio::test]
async fn a_medium_is_exchanged_once() {
    let mut vm = Vm::new().await;
    let isos = ["one.iso", "two, three.iso"].map(|name| vm.dir.path().join(name));
    isos.iter().for_each(|iso| std::fs::write(iso, vec![0; 1 << 20]).unwrap());
    vm.define(|spec| spec.iso = Some(isos[0].clone()));
    let vm = vm.start().await;
    let session = vm.hands.session().unwrap();
    let present = async || {
        let mut drives =
            session.query_block().await.unwrap().into_iter().filter(|drive| drive.tray_open == Some(false));
        let medium = drives.next_back().unwrap().inserted?;
        Some((medium.node_name.unwrap(), host_files::path_of(&session, &medium.file).await.unwrap()))
    };
    assert_eq!(present().await.unwrap().1, isos[0]);
    let exchange = |iso: &Path| Step::ExchangeMedium(Some(iso.to_owned()));
    vm.twice(exchange(&isos[1]), Report::Done).await;
    // The second time it was there, and stayed where it was.
    assert_eq!(present().await, Some(("cdrom-node-2".to_owned(), isos[1].clone())));
    assert!(matches!(vm.refuses(exchange(&vm.dir.path().join("nowhere.iso"))).await, Setback::Refused(_)));
    assert_eq!(present().await.unwrap().1, isos[1]);
    vm.twice(Step::ExchangeMedium(None), Report::Done).await;
    assert_eq!(present().await, None);
    vm.twice(exchange(&isos[0]), Report::Done).await;
    assert_eq!(present().await.unwrap().1, isos[0]);
    assert_eq!(session.query_named_block_nodes().await.unwrap().len(), 4, "nothing stays open");
    let sets = session.execute_raw("query-fdsets", None).await.unwrap();
    assert_eq!(sets.as_array().unwrap().len(), 3, "of the console, the disk, the medium: {sets}");
}

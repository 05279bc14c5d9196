//! The way to the kernel: reads tables and applies batches. A call waits for the kernel on a thread where nobody else
//! waits.

use std::{collections::BTreeMap, fmt, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, getsockname,
    netlink::{self, SocketAddrNetlink},
    recv, send, socket_with, sockopt,
};

use crate::host::fail_point::step;

use super::{
    Base, Batch, Chain, Command, Elements, Family, Key, Ruleset, Set, Table, TableName, decode, encode,
    wire::{self, DONE, DUMP, INTERRUPTED, Message, Received, messages, msg},
};

/// Times that a list is asked for that changes meanwhile.
const LISTINGS: usize = 20;
/// What the kernel writes at once at most.
const BUFFER: usize = 64 << 10;

/// A connection to nf_tables, in the network namespace of whoever opened it. Cheap to share; those who share it wait for
/// one another.
#[derive(Clone)]
pub struct Kernel {
    socket: Arc<tokio::sync::Mutex<OwnedFd>>,
    port: u32,
}

/// A batch of which nothing was made, and why.
#[derive(Debug, thiserror::Error)]
#[error("{error} ({what})")]
pub struct Refused {
    pub error: io::Error,
    /// The change that the kernel refused, as far as it is one.
    pub what: String,
}

/// A base chain of any table on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseChain {
    pub table: TableName,
    pub name: String,
    pub base: Base,
}

impl Kernel {
    /// Opens it.
    ///
    /// # Errors
    /// Where the kernel has no nf_tables. That changes are not allowed shows only when one is made.
    pub fn open() -> io::Result<Self> {
        let (socket, port) = open(0)?;
        // An answer to a long batch may be as long as the batch.
        let _ = sockopt::set_socket_recv_buffer_size_force(&socket, 4 << 20);
        Ok(Self { socket: Arc::new(tokio::sync::Mutex::new(socket)), port })
    }

    /// Whose changes are ours, as events tell it.
    pub fn port_id(&self) -> u32 {
        self.port
    }

    /// What the kernel has of these tables. Of sets that packets fill, the elements are left out.
    ///
    /// # Errors
    /// Of the kernel; [`io::ErrorKind::Interrupted`] for tables that change all the time.
    pub async fn read(&self, names: &[TableName]) -> io::Result<Ruleset> {
        let names = names.to_vec();
        self.with(move |socket| {
            for _ in 0..LISTINGS {
                match read(socket, &names) {
                    // A set or chain that went between two questions.
                    Err(error) if changing(&error) => {}
                    done => return done,
                }
            }
            Err(io::ErrorKind::Interrupted.into())
        })
        .await
    }

    /// Makes all changes of a batch, or none.
    ///
    /// # Errors
    /// The first change that the kernel refuses.
    pub async fn apply(&self, batch: Batch) -> Result<(), Refused> {
        if batch.is_empty() {
            return Ok(());
        }
        let (sender, done) = tokio::sync::oneshot::channel();
        let work = self.with(move |socket| {
            let _ = sender.send(step(|| apply(socket, &batch)));
            Ok(())
        });
        let outcome = work.await;
        done.await.unwrap_or_else(|_| {
            let error = outcome.err().unwrap_or_else(|| io::Error::other("the daemon is ending"));
            Err(Refused { error, what: String::new() })
        })
    }

    /// What is in a set, also in one that packets fill. None if there is no such set.
    ///
    /// # Errors
    /// Of the kernel.
    pub async fn elements(&self, table: &TableName, set: &str) -> io::Result<Option<Vec<Key>>> {
        let found = self.every_element(table, set).await?;
        Ok(found.map(|all| all.into_iter().map(|element| element.key).collect()))
    }

    /// What packets have put into a set, with the time after which it goes. None if there is no such set.
    ///
    /// # Errors
    /// Of the kernel.
    pub async fn learned(&self, table: &TableName, set: &str) -> io::Result<Option<Vec<(Key, Duration)>>> {
        let found = self.every_element(table, set).await?;
        let learned = |element: decode::Element| Some((element.key, element.left?));
        Ok(found.map(|all| all.into_iter().filter_map(learned).collect()))
    }

    /// What a set that counts has counted. None if there is no such set.
    ///
    /// # Errors
    /// Of the kernel.
    pub async fn counts(&self, table: &TableName, set: &str) -> io::Result<Option<BTreeMap<Vec<u8>, u64>>> {
        let found = self.every_element(table, set).await?;
        let count = |element: decode::Element| Some((element.key.bytes, element.packets?));
        Ok(found.map(|all| all.into_iter().filter_map(count).collect()))
    }

    async fn every_element(&self, table: &TableName, set: &str) -> io::Result<Option<Vec<decode::Element>>> {
        let (table, set) = (table.clone(), set.to_owned());
        self.with(move |socket| match again(|| elements(socket, &table, &set)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            done => done.map(Some),
        })
        .await
    }

    /// Where packets enter the tables of the host, whosever they are.
    ///
    /// # Errors
    /// Of the kernel.
    pub async fn base_chains(&self) -> io::Result<Vec<BaseChain>> {
        self.with(|socket| {
            again(|| {
                let mut found = Vec::new();
                list(socket, msg::GET_CHAIN, 0, &[], |message| {
                    if let (Some((table, name)), Some(base), Some(family)) =
                        (decode::names(&message, 3), decode::base(&message), message.family())
                    {
                        let table = TableName { family, name: table.to_owned() };
                        found.push(BaseChain { table, name: name.to_owned(), base });
                    }
                })?;
                Ok(found)
            })
        })
        .await
    }

    /// Does something with the socket where it may wait.
    pub(super) async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&OwnedFd) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        // Whoever gives up on the kernel leaves it to the one thread that it keeps waiting.
        let socket = self.socket.clone().lock_owned().await;
        tokio::task::spawn_blocking(move || work(&socket)).await.map_err(io::Error::other)?
    }
}

/// A socket that hears of these groups, and its number.
pub(super) fn open(groups: u32) -> io::Result<(OwnedFd, u32)> {
    let protocol = Some(netlink::NETFILTER);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    let own = SocketAddrNetlink::try_from(getsockname(&socket)?)?;
    Ok((socket, own.pid()))
}

fn changing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::NotFound)
}

pub(super) fn again<T>(mut ask: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let mut outcome = ask();
    for _ in 0..LISTINGS {
        match outcome {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => outcome = ask(),
            done => return done,
        }
    }
    outcome
}

/// Asks for everything of a kind, in a family (0 for all) and under these names.
pub(super) fn list(
    socket: &OwnedFd,
    what: u8,
    family: u8,
    names: &[(u16, &str)],
    mut each: impl FnMut(Received),
) -> io::Result<()> {
    forget(socket);
    let mut request = Vec::new();
    let mut message = Message::begin(&mut request, wire::kind(what), DUMP, 1, family);
    for (attribute, name) in names {
        message.text(*attribute, name);
    }
    drop(message);
    send(socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    let mut interrupted = false;
    loop {
        let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        for message in messages(&buffer[..length]) {
            interrupted |= message.flags & INTERRUPTED != 0;
            match message.error() {
                Some(code) if code != 0 => return Err(io::Error::from_raw_os_error(code)),
                Some(_) => {}
                None if message.kind == DONE && interrupted => return Err(io::ErrorKind::Interrupted.into()),
                None if message.kind == DONE => return Ok(()),
                None => each(message),
            }
        }
    }
}

/// What is left of an answer that nobody waited for.
fn forget(socket: &OwnedFd) {
    let mut buffer = [0; 64];
    while recv(socket, &mut buffer[..], RecvFlags::DONTWAIT).is_ok() {}
}

/// A table without what is in it, if it is there.
fn bare(socket: &OwnedFd, table: &TableName) -> io::Result<Option<Table>> {
    forget(socket);
    let mut request = Vec::new();
    Message::begin(&mut request, wire::kind(msg::GET_TABLE), 0, 1, table.family.number()).text(1, &table.name);
    send(socket, &request, SendFlags::empty())?;
    let mut buffer = vec![0; BUFFER];
    let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
    let Some(answer) = messages(&buffer[..length]).next() else {
        return Err(io::Error::other("the kernel did not answer"));
    };
    match answer.error() {
        Some(code) if code == rustix::io::Errno::NOENT.raw_os_error() => Ok(None),
        Some(code) if code != 0 => Err(io::Error::from_raw_os_error(code)),
        _ => Ok(Some(Table { dormant: decode::is_dormant(&answer), ..Table::default() })),
    }
}

fn read(socket: &OwnedFd, names: &[TableName]) -> io::Result<Ruleset> {
    let mut found = Ruleset::default();
    for name in names {
        if let Some(bare) = bare(socket, name)? {
            found.tables.insert(name.clone(), table(socket, name, bare)?);
        }
    }
    Ok(found)
}

fn table(socket: &OwnedFd, name: &TableName, bare: Table) -> io::Result<Table> {
    let mut found = bare;
    let family = name.family.number();
    list(socket, msg::GET_CHAIN, family, &[(1, &name.name)], |message| {
        if let Some((table, chain)) = decode::names(&message, 3)
            && table == name.name
        {
            let made = Chain { base: decode::base(&message), rules: Vec::new() };
            found.chains.insert(chain.to_owned(), made);
        }
    })?;
    list(socket, msg::GET_RULE, family, &[(1, &name.name)], |message| {
        if let Some((table, chain)) = decode::names(&message, 2)
            && table == name.name
        {
            found.chain(chain).rules.push(decode::rule(&message));
        }
    })?;
    list(socket, msg::GET_SET, family, &[(1, &name.name)], |message| {
        // An anonymous one goes with its rule, and cannot be removed alone.
        if let Some((table, set)) = decode::names(&message, 2)
            && table == name.name
            && !decode::is_anonymous(&message)
        {
            let form = decode::form(&message);
            let elements = form.learned.is_none().then(Elements::new);
            found.sets.insert(set.to_owned(), Set { form, elements });
        }
    })?;
    for (set, made) in &mut found.sets {
        if let Some(all) = &mut made.elements {
            *all = elements(socket, name, set)?.into_iter().map(|element| (element.key, element.datum)).collect();
        }
    }
    Ok(found)
}

pub(super) fn elements(socket: &OwnedFd, table: &TableName, set: &str) -> io::Result<Vec<decode::Element>> {
    let mut found = Vec::new();
    list(socket, msg::GET_ELEMENTS, table.family.number(), &[(1, &table.name), (2, set)], |message| {
        if message.is(msg::NEW_ELEMENTS) {
            found.extend(decode::elements(&message));
        }
    })?;
    Ok(found)
}

fn apply(socket: &OwnedFd, batch: &Batch) -> Result<(), Refused> {
    let (bytes, commands) = encode::batch(batch);
    let last = commands.len() as u32 - 1;
    let refused = |error: io::Error, sequence: u32| {
        let command = commands.get(sequence as usize).and_then(|at| batch.0.get(*at));
        Refused { error, what: command.map(|(table, command)| describe(table, command)).unwrap_or_default() }
    };
    forget(socket);
    // The kernel takes a batch in one piece.
    let _ = sockopt::set_socket_send_buffer_size_force(socket, bytes.len() * 2 + BUFFER);
    send(socket, &bytes, SendFlags::empty()).map_err(|error| refused(error.into(), 0))?;
    // All that it has to say is there when it has taken it.
    let mut buffer = vec![0; BUFFER];
    let mut acknowledged = false;
    loop {
        match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((length, _)) => {
                for message in messages(&buffer[..length]) {
                    match message.error() {
                        Some(0) => acknowledged |= message.sequence == last,
                        Some(code) => return Err(refused(io::Error::from_raw_os_error(code), message.sequence)),
                        None => {}
                    }
                }
            }
            Err(rustix::io::Errno::AGAIN) if acknowledged => return Ok(()),
            Err(rustix::io::Errno::AGAIN) => return Err(refused(io::Error::other("the kernel did not answer"), 0)),
            Err(error) => return Err(refused(error.into(), 0)),
        }
    }
}

/// A change, for people.
fn describe(table: &TableName, command: &Command) -> String {
    let TableName { family, name } = table;
    let what = match command {
        Command::AddTable => "add it".into(),
        Command::DeleteTable => "delete it".into(),
        Command::AddChain(chain, _) => format!("add chain {chain}"),
        Command::DeleteChain(chain) => format!("delete chain {chain}"),
        Command::AddRule(chain, rule) => format!("add rule to {chain}: {:?}", rule.exprs),
        Command::Flush(chain) => format!("flush chain {chain}"),
        Command::AddSet(set, _) => format!("add set {set}"),
        Command::DeleteSet(set) => format!("delete set {set}"),
        Command::AddElements(set, ..) => format!("add elements to {set}"),
        Command::DeleteElements(set, ..) => format!("delete elements of {set}"),
    };
    format!("{family} table {name}: {what}")
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inet => "inet",
            Self::Ip => "ip",
            Self::Arp => "arp",
            Self::Netdev => "netdev",
            Self::Bridge => "bridge",
            Self::Ip6 => "ip6",
        })
    }
}

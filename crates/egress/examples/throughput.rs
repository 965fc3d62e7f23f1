//! How fast is the captured path? Sends 1 GiB between the same two programs directly over the host's
//! loopback and through the capture, several times in turn, and prints medians and their ratio.
//!
//! `throughput [ROUNDS]`. The agent's end is this program again, by `unshare -Urn`.

use std::{
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use agentwall_action::Endpoint;
use agentwall_egress::{
    Connection, Egress, EgressConfig, Gate, HostLoopback, Listeners, Origin, Ticket, Verdict, netns,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const TOTAL: usize = 1 << 30;
const CHUNK: usize = 256 * 1024;
/// Stands for the server, by a ticket; nothing is ever sent there.
const ELSEWHERE: &str = "203.0.113.1";

struct Tickets;

impl Gate for Tickets {
    fn resolve(&self, _: &str) -> Verdict {
        Verdict::Deny("no names here".into())
    }
    fn connect(&self, _: &Endpoint, _: Origin) -> Verdict {
        Verdict::Deny("by ticket only".into())
    }
    fn finished(&self, _: &Connection) {}
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["inside", way, ref to @ ..] => client(way, to.first().copied(), to.len() > 1),
        _ => measure(args.first().map_or(Ok(5), |r| r.parse())?),
    }
}

fn measure(rounds: usize) -> Result<()> {
    for way in ["down", "up"] {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let server = listener.local_addr()?;
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = if way == "up" {
                    sink(stream)
                } else {
                    source(stream)
                };
            }
        });
        let (mut direct, mut captured) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            direct.push(run(way, server, false)?);
            captured.push(run(way, server, true)?);
        }
        let (direct, captured) = (median(direct), median(captured));
        println!(
            "{way}: direct {direct:.2} GiB/s, captured {captured:.2} GiB/s, ratio {:.2}",
            captured / direct
        );
    }
    Ok(())
}

fn run(way: &str, server: SocketAddr, captured: bool) -> Result<f64> {
    let (ours, theirs) = UnixStream::pair()?;
    let program = std::env::current_exe()?;
    let mut command = if captured {
        let mut c = Command::new("unshare");
        c.args(["-Urn", "--"]).arg(program);
        c.args([
            "inside",
            way,
            &format!("{ELSEWHERE}:{}", server.port()),
            "captured",
        ]);
        c
    } else {
        let mut c = Command::new(program);
        c.args(["inside", way, &server.to_string()]);
        c
    };
    let child = command
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .spawn()?;
    let _egress = if captured {
        let listeners = Listeners::from_owned_fds(receive(&ours)?)?;
        let egress = Egress::start(listeners, Arc::new(Tickets), EgressConfig::default())?;
        let original = SocketAddr::new(ELSEWHERE.parse::<IpAddr>()?, server.port());
        egress.admit(
            original,
            Ticket {
                addresses: vec![server.ip()],
            },
        );
        Some(egress)
    } else {
        None
    };
    (&ours).write_all(b"!")?;
    let out = child.wait_with_output()?;
    let seconds: f64 = String::from_utf8(out.stdout)?.trim().parse()?;
    Ok(1.0 / seconds)
}

fn client(way: &str, to: Option<&str>, captured: bool) -> Result<()> {
    let mut stdin = io::stdin();
    if captured {
        let host = HostLoopback::none();
        let listeners = Listeners::bind(&host)?;
        netns::configure(&listeners.plan(host))?;
        let fds = listeners.as_fds();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(128))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(
            stdin.as_fd(),
            &[IoSlice::new(b"L")],
            &mut control,
            SendFlags::empty(),
        )?;
    }
    stdin.read_exact(&mut [0])?;
    let to: SocketAddr = to.ok_or("no address")?.parse()?;
    let start = Instant::now();
    let stream = TcpStream::connect(to)?;
    if way == "up" {
        source(stream)?
    } else {
        sink(stream)?
    }
    println!("{}", start.elapsed().as_secs_f64());
    Ok(())
}

fn source(mut stream: TcpStream) -> io::Result<()> {
    let chunk = vec![7; CHUNK];
    for _ in 0..TOTAL / CHUNK {
        stream.write_all(&chunk)?;
    }
    stream.shutdown(Shutdown::Write)?;
    // The receiver's one byte says that it has all.
    stream.read_exact(&mut [0])
}

fn sink(mut stream: TcpStream) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut total = 0;
    while total < TOTAL {
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            n => total += n,
        }
    }
    stream.write_all(b"k")
}

fn receive(from: &UnixStream) -> Result<Vec<OwnedFd>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(128))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        from,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    Ok(fds)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

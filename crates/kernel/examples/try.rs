//! Temporary.
use agentwall_kernel::*;
use std::time::{Duration, Instant};
fn main() {
    if std::env::var_os("STATS").is_some() {
        stats();
        return;
    }
    let t = Instant::now();
    let wall = match Wall::load(&Options::default()) {
        Ok(w) => w,
        Err(e) => {
            println!("ERR {e}");
            std::process::exit(1)
        }
    };
    println!(
        "loaded in {:?}: {} programs",
        t.elapsed(),
        wall.programs().count()
    );
    wall.tables()
        .unwrap()
        .install_words(1, &[0x54505741, 2], 7, 0)
        .unwrap();
    let n = std::cell::RefCell::new(0);
    let mut child = std::process::Command::new("/bin/sh")
        .args([
            "-c",
            "sleep 1; echo child; cat /etc/passwd; touch /tmp/x; sleep 1",
        ])
        .spawn()
        .unwrap();
    println!("adopted {:?}", wall.adopt(child.id(), 1, 42));
    println!("governed {:?}", wall.governed());
    let ev = wall
        .events(|e| {
            *n.borrow_mut() += 1;
            if *n.borrow() < 30 {
                println!("{e:?}")
            }
        })
        .unwrap();
    for _ in 0..30 {
        ev.poll(Duration::from_millis(100)).unwrap();
    }
    println!("{:?}", child.wait());
    drop(ev);
    println!(
        "{} events, {:?} {:?}",
        n.borrow(),
        wall.counters(),
        wall.allows(1)
    );
}
fn stats() {
    libbpf_rs::set_print(Some((libbpf_rs::PrintLevel::Debug, |_, s| {
        for l in s.lines() {
            if l.contains("processed") || l.contains("verification time") || l.contains("prog '") {
                println!("{l}")
            }
        }
    })));
    let mut o = libbpf_rs::ObjectBuilder::default()
        .open_memory(object::WALL)
        .unwrap();
    for mut p in o.progs_mut() {
        let name = p.name().to_string_lossy().into_owned();
        let keep = [
            "aw_file_open",
            "aw_unlink",
            "aw_path_unlink",
            "aw_mount",
            "aw_connect",
            "aw_socket_connect",
            "aw_path_rename",
        ]
        .contains(&name.as_str());
        p.set_autoload(keep);
        if !name.contains("zz") {
            p.set_log_level(4)
        }
    }
    let t = Instant::now();
    println!("{:?}", o.load().err());
    println!("{:?}", t.elapsed());
}

use super::*;

#[test]
fn stat_ends_its_name_at_the_last_bracket() {
    let text = |comm: &str| {
        format!("42 ({comm}) S 7 42 42 0 -1 4194304 1 2 3 4 5 6 7 8 20 0 1 0 9000 10 11")
            .into_bytes()
    };
    for comm in ["node", "a) S 1 (b", "", "x y\n)"] {
        let read = stat(&text(comm)).unwrap();
        assert_eq!(
            (read.pid, read.parent, read.started),
            (42, 7, 9000),
            "{comm}"
        );
        assert_eq!(read.comm, comm.as_bytes());
        assert!(!read.is_kernel_thread() && !read.has_ended());
    }
    let kernel = text("kthreadd")
        .iter()
        .map(|b| *b as char)
        .collect::<String>();
    let kernel = kernel.replace("4194304", "2129984");
    assert!(stat(kernel.as_bytes()).unwrap().is_kernel_thread());
    for bad in [
        "",
        "42 (x",
        "42 (x) S 7",
        "x (x) S 7 42 42 0 -1 1 1 2 3 4 5 6 7 8 20 0 1 0 9",
    ] {
        assert_eq!(stat(bad.as_bytes()), None, "{bad}");
    }
    // A later bracket before an earlier one.
    assert_eq!(stat(b") 4 ("), None);
}

#[test]
fn arguments_and_titles() {
    let args = |bytes: &[u8]| -> Vec<String> {
        cmdline(bytes)
            .into_iter()
            .map(|a| String::from_utf8(a).unwrap())
            .collect()
    };
    assert_eq!(args(b"sh\0-c\0\0ls\0"), ["sh", "-c", "", "ls"]);
    assert_eq!(args(b"claude\0\0\0\0"), ["claude"]);
    assert_eq!(args(b"\0\0"), [""; 0]);
    assert_eq!(cmdline(&b"a\0".repeat(5000)).len(), MAX_ARGS);
}

#[test]
fn of_an_environment_only_names_are_kept_in_any_pieces() {
    let long = "N".repeat(MAX_NAME + 1);
    let text = format!("A=secret=1\0=x\0noise\0EMPTY=\0{long}=hidden\0LAST=value");
    for size in [1, 2, 7, 4096] {
        let mut names = Names::default();
        text.as_bytes()
            .chunks(size)
            .for_each(|piece| names.take(piece));
        assert_eq!(
            names.clone().finish(),
            [&b"A"[..], b"EMPTY", b"LAST"],
            "{size}"
        );
        let kept = format!("{names:?}");
        let bytes = |text: &str| format!("{:?}", text.as_bytes());
        for secret in ["secret", "hidden", "value"] {
            let inside = bytes(secret).trim_matches(['[', ']']).to_owned();
            assert!(!kept.contains(&inside), "{secret} was kept");
        }
    }
}

#[test]
fn links_and_groups() {
    assert_eq!(inode(b"pipe:[17]", "pipe"), Some(17));
    assert_eq!(inode(b"pipe:[x]", "pipe"), None);
    assert_eq!(inode(b"socket:[17]", "pipe"), None);
    assert_eq!(file(b"/a b (deleted)"), Some(b"/a b".to_vec()));
    assert_eq!(file(b"anon_inode:[eventpoll]"), None);
    assert_eq!(
        cgroup(b"3:cpu:/a\n0::/user.slice\n"),
        Some(b"/user.slice".to_vec())
    );
    assert_eq!(cgroup(b"3:cpu:/a:b\n"), Some(b"/a:b".to_vec()));
    assert_eq!(uid(b"Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(1000));
    assert_eq!(uid(b"Name:\tx\n"), None);
    assert_eq!(boot(b"cpu 1\nbtime 1700000000\n"), Some(1_700_000_000));
}

#[test]
fn sockets_of_both_families() {
    let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
        0: 0100007F:2CAA 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000 0 55 1 0 100 0 0 10 0\n   \
        1: 0200000A:9C40 057100CB:01BB 01 00000000:00000000 02:00000000 00000000  1000 0 56 2 0 20 4 30 10 -1\n   \
        2: 0200000A:9C41 057100CB:01BB 06 00000000:00000000 03:00000000 00000000  0 0 0 3 0\n   \
        3: 0000000000000000FFFF0000057100CB:9C40 0000000000000000FFFF0000057100CB:01BB 01 0:0 0:0 0 1000 0 57 1\n\
        4: nonsense\n";
    // The words are in this machine's order; the text above is that of a little-endian one.
    if cfg!(target_endian = "big") {
        return;
    }
    let read = sockets(text.as_bytes());
    let https = Some("203.0.113.5:443".parse().unwrap());
    assert_eq!(
        read,
        [
            Socket {
                inode: 55,
                port: 11434,
                far: None
            },
            Socket {
                inode: 56,
                port: 40000,
                far: https
            },
            Socket {
                inode: 57,
                port: 40000,
                far: https
            },
        ]
    );
}

#[test]
fn packages_and_entry_points() {
    assert_eq!(
        package_name(br#"{"name":"@a/b","version":"1"}"#).as_deref(),
        Some("@a/b")
    );
    for none in ["{", r#"{"name":""}"#, r#"{"name":7}"#, r#"{"version":"1"}"#] {
        assert_eq!(package_name(none.as_bytes()), None, "{none}");
    }
    let script =
        b"#!/v/bin/python\nimport re\nimport sys\nfrom aider.main import main\nsys.exit(main())\n";
    assert_eq!(entry_module(script), Some(b"aider.main".as_slice()));
    assert_eq!(entry_module(b"#!/bin/sh\nfrom\n"), None);
}

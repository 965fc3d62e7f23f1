//! Timestamps that OpenSSL makes, and what is wrong with those that it would not.

#![allow(clippy::unwrap_used)]

use std::{fs, path::PathBuf, process::Command};

use agentwall_witness::timestamp::{Authorities, TimestampError, check};

const DATA: &[u8] = b"what was there\n";

/// An authority in a folder, with certificates for timestamps and for something else, and a stranger's root.
struct Authority {
    dir: tempfile::TempDir,
}

impl Authority {
    fn new(key: &[&str]) -> Authority {
        let dir = tempfile::tempdir().unwrap();
        let one = Authority { dir };
        one.put(
            "tsa.cnf",
            "[tsa]\ndefault_tsa = c\n[c]\nserial = serial\ncrypto_device = builtin\nsigner_digest = sha256\n\
             default_policy = 1.2.3.4.1\ndigests = sha256, sha384\nordering = no\ntsa_name = no\n\
             ess_cert_id_chain = no\ness_cert_id_alg = sha256\n",
        );
        one.put("serial", "01\n");
        for root in ["root", "stranger"] {
            let subject = format!("/CN={root}");
            let args = ["req", "-x509", "-nodes", "-days", "3650", "-subj", &subject];
            let out = [
                "-keyout",
                &format!("{root}.key"),
                "-out",
                &format!("{root}.pem"),
            ];
            one.openssl(&[&args[..], &["-newkey"], key, &out].concat());
        }
        for (name, usage) in [
            ("tsa", "critical,timeStamping"),
            ("lax", "timeStamping"),
            ("both", "critical,timeStamping,codeSigning"),
            ("other", "critical,codeSigning"),
        ] {
            one.put(
                &format!("{name}.ext"),
                format!("extendedKeyUsage={usage}\nbasicConstraints=CA:FALSE\n"),
            );
            let subject = format!("/CN={name}");
            let request = ["req", "-new", "-nodes", "-subj", &subject, "-newkey"];
            let out = [
                "-keyout",
                &format!("{name}.key"),
                "-out",
                &format!("{name}.csr"),
            ];
            one.openssl(&[&request[..], key, &out].concat());
            one.openssl(&[
                "x509",
                "-req",
                "-days",
                "3650",
                "-CA",
                "root.pem",
                "-CAkey",
                "root.key",
                "-CAcreateserial",
                "-in",
                &format!("{name}.csr"),
                "-extfile",
                &format!("{name}.ext"),
                "-out",
                &format!("{name}.pem"),
            ]);
        }
        one
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    fn get(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }

    fn openssl(&self, args: &[&str]) {
        let done = Command::new("openssl")
            .args(args)
            .current_dir(self.dir.path())
            .output()
            .unwrap();
        assert!(
            done.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
    }

    /// A genuine reply for the data.
    fn reply(&self, data: &[u8]) -> Vec<u8> {
        self.put("data", data);
        self.openssl(&[
            "ts", "-query", "-data", "data", "-sha256", "-cert", "-out", "q",
        ]);
        self.openssl(&[
            "ts",
            "-reply",
            "-queryfile",
            "q",
            "-config",
            "tsa.cnf",
            "-signer",
            "tsa.pem",
            "-inkey",
            "tsa.key",
            "-out",
            "r",
        ]);
        self.get("r")
    }

    /// A reply with the same content as a genuine one, signed with another certificate of the same root.
    fn signed_by(&self, name: &str) -> Vec<u8> {
        self.put("r", self.reply(DATA));
        self.openssl(&["ts", "-reply", "-in", "r", "-token_out", "-out", "token"]);
        self.openssl(&[
            "cms",
            "-verify",
            "-noverify",
            "-inform",
            "DER",
            "-in",
            "token",
            "-out",
            "info",
        ]);
        self.openssl(&[
            "cms",
            "-sign",
            "-cades",
            "-binary",
            "-nodetach",
            "-nosmimecap",
            "-md",
            "sha256",
            "-econtent_type",
            "1.2.840.113549.1.9.16.1.4",
            "-in",
            "info",
            "-outform",
            "DER",
            "-out",
            "forged",
            "-signer",
            &format!("{name}.pem"),
            "-inkey",
            &format!("{name}.key"),
        ]);
        // PKIStatusInfo: granted.
        let content = [&[0x30, 3, 2, 1, 0][..], &self.get("forged")].concat();
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[0x30, 0x82][..], &length, &content].concat()
    }

    fn known(&self, root: &str) -> Authorities {
        Authorities::from_pem(&self.get(&format!("{root}.pem"))).unwrap()
    }
}

#[test]
fn what_openssl_makes_is_believed_with_its_root_and_no_other() {
    for key in [
        &["rsa:2048"][..],
        &["ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        &["ec", "-pkeyopt", "ec_paramgen_curve:P-384"],
    ] {
        let one = Authority::new(key);
        let reply = one.reply(DATA);
        let found = check(&reply, DATA, &one.known("root")).unwrap();
        assert_eq!(found.authority, "CN=tsa");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        assert!(now.unwrap().as_secs().abs_diff(found.time) < 600);
        let stranger = check(&reply, DATA, &one.known("stranger"));
        assert!(
            matches!(stranger, Err(TimestampError::Signature(_))),
            "{stranger:?}"
        );
        let other = check(&reply, b"something else", &one.known("root"));
        assert!(matches!(other, Err(TimestampError::Other(_))), "{other:?}");
    }
}

#[test]
fn every_byte_counts() {
    let one = Authority::new(&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let (reply, known) = (one.reply(DATA), one.known("root"));
    let genuine = check(&reply, DATA, &known).unwrap();
    for at in 0..reply.len() {
        let mut changed = reply.clone();
        changed[at] ^= 1;
        // What nobody signs, such as the version of the structure, may be another: what is said is the same.
        if let Ok(found) = check(&changed, DATA, &known) {
            assert_eq!(found, genuine, "byte {at}");
        }
        assert!(check(&reply[..at], DATA, &known).is_err());
    }
}

#[test]
fn a_certificate_that_is_not_for_timestamps_alone_is_refused() {
    let one = Authority::new(&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let known = one.known("root");
    check(&one.signed_by("tsa"), DATA, &known).unwrap();
    for name in ["lax", "both", "other"] {
        let found = check(&one.signed_by(name), DATA, &known);
        assert!(
            matches!(found, Err(TimestampError::Signature(_))),
            "{name}: {found:?}"
        );
    }
}

#[test]
fn a_reply_without_a_token_and_certificates_that_are_none_are_told() {
    let one = Authority::new(&["ec", "-pkeyopt", "ec_paramgen_curve:P-256"]);
    let known = one.known("root");
    // PKIStatusInfo: rejection.
    let refused = check(&[0x30, 5, 0x30, 3, 2, 1, 2], DATA, &known);
    assert!(
        matches!(refused, Err(TimestampError::Status(_))),
        "{refused:?}"
    );
    for wrong in [&b""[..], b"no certificate", &one.get("tsa.key")] {
        assert!(Authorities::from_pem(wrong).is_err());
    }
}

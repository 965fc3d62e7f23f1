//! Timestamps by an authority of RFC 3161: what somebody else says about when a checkpoint was there.
//!
//! A reply is believed for what is checked here and for nothing else: the token is signed data about a `TSTInfo` (RFC 5652)
//! whose imprint is the SHA-256 of the data; its signed attributes have the digest of that content, and name the
//! signer's certificate (RFC 5816); they are signed with that certificate's key; the certificate leads to one that whoever
//! checks has given, at the time of the token; and its extended key usage is `timeStamping`, critical and alone
//! (RFC 3161 section 2.3). Paths and signatures are checked by `rustls-webpki`, the structures read by the crates of RustCrypto.
//!
//! Refused, though some authorities write it: a time with fractions of seconds, certificate identifiers of SHA-1 alone, RSA-PSS.
//! Revocation is not looked at.

use std::time::Duration;

use cms::{
    cert::CertificateChoices,
    content_info::ContentInfo,
    signed_data::{SignedData, SignerIdentifier, SignerInfo},
};
use der::{
    Any, Decode, Encode, Sequence, Tag, Tagged as _,
    asn1::{Int, Null, ObjectIdentifier, OctetString},
};
use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime, pem::PemObject};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring};
use x509_cert::{
    Certificate,
    attr::Attribute,
    ext::pkix::{ExtendedKeyUsage, SubjectKeyIdentifier},
    spki::AlgorithmIdentifier,
};
use x509_tsp::{MessageImprint, TimeStampReq, TimeStampResp, TspVersion, TstInfo};

use crate::client::{CallError, Client};

/// The longest reply, in bytes.
const MAX_REPLY: u64 = 256 * 1024;

const SHA_256: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.1");
const SHA_384: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.2");
const SHA_512: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.16.840.1.101.3.4.2.3");
const SIGNED_DATA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.7.2");
const TST_INFO: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.1.4");
const CONTENT_TYPE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.3");
const MESSAGE_DIGEST: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.4");
const SIGNING_CERTIFICATE_V2: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.47");
const KEY_USAGE: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.29.37");
const TIME_STAMPING: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.8");
/// The same, as it stands in a certificate.
const TIME_STAMPING_DER: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 8];

/// What an authority says about data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timestamp {
    /// The data was there at this moment, in seconds since the Unix epoch.
    pub time: u64,
    /// The subject of the certificate that signed (RFC 4514).
    pub authority: String,
}

/// Why there is no timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimestampError {
    /// The authority cannot be asked.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The system has no randomness.
    #[error("the system gave no random bytes: {0}")]
    Random(String),
    /// The authority answers, and not with a timestamp.
    #[error("the authority answers {0}")]
    Status(String),
    /// Not in the form of RFC 3161, or in one that is not taken.
    #[error("the reply is not a timestamp that can be checked: {0}")]
    Form(String),
    /// It is about other data, or another request.
    #[error("the timestamp is not about this: {0}")]
    Other(&'static str),
    /// It is not by whom it says.
    #[error("the timestamp is not signed as it must be: {0}")]
    Signature(String),
    /// The certificates to trust.
    #[error("the certificates to trust: {0}")]
    Authorities(String),
}

impl From<der::Error> for TimestampError {
    fn from(error: der::Error) -> Self {
        TimestampError::Form(error.to_string())
    }
}

/// Certificates that whoever checks trusts to name authorities.
#[derive(Debug, Clone)]
pub struct Authorities(Vec<CertificateDer<'static>>);

impl Authorities {
    /// Reads PEM, one certificate or several.
    pub fn from_pem(pem: &[u8]) -> Result<Self, TimestampError> {
        let wrong = |what: String| TimestampError::Authorities(what);
        let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
        let all = all.map_err(|e| wrong(e.to_string()))?;
        for one in &all {
            anchor_from_trusted_cert(one).map_err(|e| wrong(e.to_string()))?;
        }
        match all.is_empty() {
            true => Err(wrong("expected a certificate in PEM".to_owned())),
            false => Ok(Authorities(all)),
        }
    }
}

/// Asks the authority at `url` for a timestamp of the data, and gives its reply (DER), which is about this data and this
/// request, and the time in it, in seconds since the Unix epoch. Its signature is yet to be [checked](check).
pub fn ask(url: &str, data: &[u8], patience: Duration) -> Result<(Vec<u8>, u64), TimestampError> {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).map_err(|e| TimestampError::Random(e.to_string()))?;
    // Positive, and in the one spelling of DER: no byte before it is needed, and none is zero.
    nonce[0] = nonce[0] & 0x3f | 0x40;
    let request = TimeStampReq {
        version: TspVersion::V1,
        message_imprint: MessageImprint {
            hash_algorithm: AlgorithmIdentifier {
                oid: SHA_256,
                parameters: Some(Any::from(Null)),
            },
            hashed_message: OctetString::new(digest(SHA_256, data)?)?,
        },
        req_policy: None,
        nonce: Some(Int::new(&nonce)?),
        cert_req: true,
        extensions: None,
    };
    let client = Client::new(url, patience)?;
    let called = client.query(&request.to_der()?, "application/timestamp-query", MAX_REPLY)?;
    if called.status != 200 {
        return Err(TimestampError::Status(called.status.to_string()));
    }
    let (_, info) = token(&called.body, data)?;
    if info.nonce != request.nonce {
        return Err(TimestampError::Other("it has another nonce"));
    }
    Ok((called.body, info.gen_time.to_unix_duration().as_secs()))
}

/// Checks all of a reply for the data but whether it was asked for now: see the head of this module.
pub fn check(
    reply: &[u8],
    data: &[u8],
    authorities: &Authorities,
) -> Result<Timestamp, TimestampError> {
    let (signed, info) = token(reply, data)?;
    let refused = |what: &str| TimestampError::Signature(what.to_owned());
    let [signer] = signed.signer_infos.0.as_slice() else {
        return Err(refused("there is not one signer"));
    };
    let certificates: Vec<&Certificate> = (signed.certificates.iter())
        .flat_map(|set| set.0.iter())
        .filter_map(|choice| match choice {
            CertificateChoices::Certificate(certificate) => Some(certificate),
            CertificateChoices::Other(_) => None,
        })
        .collect();
    let own = certificates.iter().find(|c| is_of(c, &signer.sid));
    let own = own.ok_or(refused("the signer's certificate is not in it"))?;
    let own_der = own.to_der()?;
    let content = signed.encap_content_info.econtent.as_ref().map(Any::value);
    attributes(signer, content.unwrap_or_default(), &own_der)?;
    purpose(own)?;

    let time = info.gen_time.to_unix_duration();
    let webpki = |e: webpki::Error| TimestampError::Signature(e.to_string());
    let own_der = CertificateDer::from(own_der);
    let leaf = EndEntityCert::try_from(&own_der).map_err(webpki)?;
    let anchors: Vec<_> = (authorities.0.iter().map(anchor_from_trusted_cert))
        .collect::<Result<_, _>>()
        .map_err(webpki)?;
    let others = certificates
        .iter()
        .map(|c| c.to_der().map(CertificateDer::from));
    let others = others.collect::<Result<Vec<_>, _>>()?;
    leaf.verify_for_usage(
        webpki::ALL_VERIFICATION_ALGS,
        &anchors,
        &others,
        UnixTime::since_unix_epoch(time),
        KeyUsage::required(TIME_STAMPING_DER),
        None,
        None,
    )
    .map_err(webpki)?;
    // What is signed is the SET, not the tagged form that stands in the token (RFC 5652 section 5.4).
    let text = signer
        .signed_attrs
        .as_ref()
        .map(Encode::to_der)
        .transpose()?;
    let text = text.ok_or(refused("nothing is signed"))?;
    let signature = signer.signature.as_bytes();
    let by = |algorithm: &&dyn SignatureVerificationAlgorithm| {
        leaf.verify_signature(*algorithm, &text, signature).is_ok()
    };
    if !algorithms(signer.digest_alg.oid).iter().any(by) {
        return Err(refused(
            "the signature is wrong, or of a kind that is not taken",
        ));
    }
    Ok(Timestamp {
        time: time.as_secs(),
        authority: own.tbs_certificate.subject.to_string(),
    })
}

/// The signed data of a reply, and what it says; it is about the data.
fn token(reply: &[u8], data: &[u8]) -> Result<(SignedData, TstInfo), TimestampError> {
    let reply = TimeStampResp::from_der(reply)?;
    let Some(token) = reply.time_stamp_token else {
        return Err(TimestampError::Status(format!("{:?}", reply.status.status)));
    };
    let form = |what: &str| TimestampError::Form(what.to_owned());
    let ContentInfo {
        content_type,
        content,
    } = token;
    if content_type != SIGNED_DATA {
        return Err(form("it is not signed data"));
    }
    let signed: SignedData = content.decode_as()?;
    let content = signed.encap_content_info.econtent.as_ref();
    let content = content
        .filter(|c| c.tag() == Tag::OctetString)
        .ok_or(form("it has no content"))?;
    if signed.encap_content_info.econtent_type != TST_INFO {
        return Err(form("its content is not a TSTInfo"));
    }
    let info = TstInfo::from_der(content.value())?;
    if info.message_imprint.hash_algorithm.oid != SHA_256
        || info.message_imprint.hashed_message.as_bytes() != digest(SHA_256, data)?
    {
        return Err(TimestampError::Other("it is of another digest"));
    }
    Ok((signed, info))
}

/// The signed attributes are about this content and this certificate.
fn attributes(signer: &SignerInfo, content: &[u8], own: &[u8]) -> Result<(), TimestampError> {
    let refused = |what: &str| TimestampError::Signature(what.to_owned());
    let all: Vec<&Attribute> = signer
        .signed_attrs
        .iter()
        .flat_map(|set| set.iter())
        .collect();
    let one = |oid: ObjectIdentifier| {
        let mut found = all.iter().filter(|a| a.oid == oid);
        match (found.next().map(|a| a.values.as_slice()), found.next()) {
            (Some([value]), None) => Ok(value),
            _ => Err(refused(
                "a signed attribute is missing, or there more than once",
            )),
        }
    };
    if one(CONTENT_TYPE)?.decode_as::<ObjectIdentifier>()? != TST_INFO {
        return Err(refused("the signed content type is another one"));
    }
    let signed = one(MESSAGE_DIGEST)?.decode_as::<OctetString>()?;
    if signed.as_bytes() != digest(signer.digest_alg.oid, content)? {
        return Err(refused("the signed digest is not that of the content"));
    }
    let named = one(SIGNING_CERTIFICATE_V2)?.decode_as::<SigningCertificateV2>()?;
    let named = named
        .certs
        .first()
        .ok_or(refused("no certificate is named"))?;
    let algorithm = named.hash_algorithm.as_ref().map_or(SHA_256, |a| a.oid);
    match named.cert_hash.as_bytes() == digest(algorithm, own)? {
        true => Ok(()),
        false => Err(refused("another certificate is named")),
    }
}

/// RFC 5035 section 4, as far as it is looked at.
#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
struct SigningCertificateV2 {
    certs: Vec<EssCertIdV2>,
    #[asn1(optional = "true")]
    policies: Option<Any>,
}

/// RFC 5035 section 4. The digest is SHA-256 where no other is named.
#[derive(Debug, Clone, PartialEq, Eq, Sequence)]
struct EssCertIdV2 {
    #[asn1(optional = "true")]
    hash_algorithm: Option<AlgorithmIdentifier<Any>>,
    cert_hash: OctetString,
    #[asn1(optional = "true")]
    issuer_serial: Option<Any>,
}

/// The certificate is one for timestamps and nothing else.
fn purpose(own: &Certificate) -> Result<(), TimestampError> {
    let all = own.tbs_certificate.extensions.iter().flatten();
    let usage: Vec<_> = all
        .filter(|e| e.extn_id == KEY_USAGE && e.critical)
        .collect();
    let alone = match usage.as_slice() {
        [one] => ExtendedKeyUsage::from_der(one.extn_value.as_bytes())?.0 == [TIME_STAMPING],
        _ => false,
    };
    match alone {
        true => Ok(()),
        false => Err(TimestampError::Signature(
            "the certificate is not one for timestamps alone, critically so".to_owned(),
        )),
    }
}

fn is_of(certificate: &Certificate, signer: &SignerIdentifier) -> bool {
    let own = &certificate.tbs_certificate;
    match signer {
        SignerIdentifier::IssuerAndSerialNumber(id) => {
            (&own.issuer, &own.serial_number) == (&id.issuer, &id.serial_number)
        }
        SignerIdentifier::SubjectKeyIdentifier(id) => {
            matches!(own.get::<SubjectKeyIdentifier>(), Ok(Some((_, found))) if found == *id)
        }
    }
}

/// What a signature over this digest may be made with; the certificate's key says which.
fn algorithms(digest: ObjectIdentifier) -> Vec<&'static dyn SignatureVerificationAlgorithm> {
    match digest {
        SHA_256 => vec![
            ring::RSA_PKCS1_2048_8192_SHA256,
            ring::ECDSA_P256_SHA256,
            ring::ECDSA_P384_SHA256,
        ],
        SHA_384 => vec![
            ring::RSA_PKCS1_2048_8192_SHA384,
            ring::ECDSA_P256_SHA384,
            ring::ECDSA_P384_SHA384,
        ],
        SHA_512 => vec![ring::RSA_PKCS1_2048_8192_SHA512],
        _ => Vec::new(),
    }
}

fn digest(algorithm: ObjectIdentifier, data: &[u8]) -> Result<Vec<u8>, TimestampError> {
    use sha2::{Digest as _, Sha256, Sha384, Sha512};
    match algorithm {
        SHA_256 => Ok(Sha256::digest(data).to_vec()),
        SHA_384 => Ok(Sha384::digest(data).to_vec()),
        SHA_512 => Ok(Sha512::digest(data).to_vec()),
        _ => Err(TimestampError::Form(format!(
            "the digest {algorithm} is not taken"
        ))),
    }
}

//! HTTP/1.1 (RFC 9112) as far as the intent socket needs it: one request on a connection, a body of known
//! length, bounds on all of it. Heads are parsed by `httparse`.

use std::io::{self, Read, Write};

/// Longest head of a request or response, in bytes.
const MAX_HEAD: usize = 8 << 10;
/// Longest body, in bytes.
pub const MAX_BODY: usize = 1 << 20;
/// Most header fields.
const MAX_FIELDS: usize = 32;

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// For example `POST`.
    pub method: String,
    /// The target as it was sent.
    pub path: String,
    /// The content.
    pub body: Vec<u8>,
}

/// Why a message cannot be taken.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The peer is gone, or silent for too long.
    #[error("the message did not arrive: {0}")]
    Io(#[from] io::Error),
    /// Not HTTP/1.1 as it is understood here.
    #[error("not a request of this interface: {0}")]
    Malformed(&'static str),
    /// Longer than the limits.
    #[error("the {0} is too long")]
    TooLong(&'static str),
}

impl HttpError {
    /// The status to answer with; `None` where nobody listens any more.
    pub fn status(&self) -> Option<u16> {
        match self {
            HttpError::Io(_) => None,
            HttpError::Malformed(_) => Some(400),
            HttpError::TooLong(_) => Some(413),
        }
    }
}

/// Reads one request.
pub fn read_request(from: impl Read) -> Result<Request, HttpError> {
    let (head, body) = read_message(from, |bytes| {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut request = httparse::Request::new(&mut fields);
        let wrong = |_| HttpError::Malformed("the head is not HTTP/1.1");
        let httparse::Status::Complete(end) = request.parse(bytes).map_err(wrong)? else {
            return Ok(None);
        };
        let line = (
            request.method.unwrap_or_default().to_owned(),
            request.path.unwrap_or_default().to_owned(),
        );
        Ok(Some((end, length(request.headers)?.unwrap_or(0), line)))
    })?;
    let (method, path) = head;
    Ok(Request { method, path, body })
}

/// Reads one response: its status and body.
pub fn read_response(from: impl Read) -> Result<(u16, Vec<u8>), HttpError> {
    read_message(from, |bytes| {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let wrong = |_| HttpError::Malformed("the head is not HTTP/1.1");
        let httparse::Status::Complete(end) = response.parse(bytes).map_err(wrong)? else {
            return Ok(None);
        };
        let length = length(response.headers)?.ok_or(HttpError::Malformed(
            "the response does not tell its length",
        ))?;
        Ok(Some((end, length, response.code.unwrap_or(0))))
    })
}

/// The end of a head, the length of the body, and what else the head says; `None` while it is not complete.
type Head<T> = Option<(usize, usize, T)>;

fn read_message<T>(
    mut from: impl Read,
    parse: impl Fn(&[u8]) -> Result<Head<T>, HttpError>,
) -> Result<(T, Vec<u8>), HttpError> {
    let mut bytes = Vec::new();
    let mut chunk = [0u8; 4096];
    let (end, length, head) = loop {
        if let Some(found) = parse(&bytes)? {
            break found;
        }
        if bytes.len() >= MAX_HEAD {
            return Err(HttpError::TooLong("head"));
        }
        match from.read(&mut chunk)? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            n => bytes.extend_from_slice(&chunk[..n]),
        }
    };
    if length > MAX_BODY {
        return Err(HttpError::TooLong("body"));
    }
    let mut body = bytes.split_off(end);
    if body.len() > length {
        return Err(HttpError::Malformed("one request on a connection"));
    }
    let have = body.len();
    body.resize(length, 0);
    from.read_exact(&mut body[have..])?;
    Ok((head, body))
}

/// The value of `content-length`. Another framing is refused: two readers could disagree about it.
fn length(fields: &[httparse::Header<'_>]) -> Result<Option<usize>, HttpError> {
    let mut length = None;
    for field in fields {
        if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(HttpError::Malformed("send the body with content-length"));
        }
        if field.name.eq_ignore_ascii_case("content-length") {
            let digits = |v: &&str| !v.is_empty() && v.bytes().all(|b| b.is_ascii_digit());
            let text = std::str::from_utf8(field.value).ok().filter(digits);
            let value = text.and_then(|v| v.parse().ok());
            if length.is_some() || value.is_none() {
                return Err(HttpError::Malformed("content-length is one number"));
            }
            length = value;
        }
    }
    Ok(length)
}

/// Writes a request.
pub fn write_request(mut to: impl Write, path: &str, body: &[u8]) -> io::Result<()> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: agentwall\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    to.write_all(&[head.as_bytes(), body].concat())
}

/// Writes a response.
pub fn write_response(mut to: impl Write, status: u16, body: &[u8]) -> io::Result<()> {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        413 => "Content Too Large",
        _ => "Service Unavailable",
    };
    let head = format!(
        "HTTP/1.1 {status} {reason}\r\ncontent-type: application/json\r\ncache-control: no-store\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    to.write_all(&[head.as_bytes(), body].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives one byte at a time.
    struct Drip<'a>(&'a [u8]);

    impl Read for Drip<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let Some((first, rest)) = self.0.split_first() else {
                return Ok(0);
            };
            buf[0] = *first;
            self.0 = rest;
            Ok(1)
        }
    }

    #[test]
    fn what_is_written_is_read_however_it_arrives() {
        let mut bytes = Vec::new();
        write_request(&mut bytes, "/v1/intent", b"{\"a\":1}").unwrap();
        let request = read_request(Drip(&bytes)).unwrap();
        assert_eq!(request, read_request(bytes.as_slice()).unwrap());
        assert_eq!(
            (request.method.as_str(), request.path.as_str()),
            ("POST", "/v1/intent")
        );
        assert_eq!(request.body, b"{\"a\":1}");
        let mut bytes = Vec::new();
        write_response(&mut bytes, 403, b"no").unwrap();
        assert_eq!(read_response(Drip(&bytes)).unwrap(), (403, b"no".to_vec()));
    }

    #[test]
    fn framing_is_one_length_and_bounded() {
        let said = |text: &str| read_request(text.as_bytes()).unwrap_err();
        let post = |fields: &str| format!("POST / HTTP/1.1\r\n{fields}\r\n\r\n");
        for fields in [
            "transfer-encoding: chunked",
            "content-length: 1\r\ncontent-length: 1",
            "content-length: +1",
            "content-length: 1, 1",
            "content-length: 99999999999999999999999",
        ] {
            assert_eq!(said(&post(fields)).status(), Some(400), "{fields}");
        }
        assert_eq!(said("nonsense\r\n\r\n").status(), Some(400));
        let two = format!("{}POST / HTTP/1.1\r\n\r\n", post("content-length: 0"));
        assert_eq!(said(&two).status(), Some(400));
        let long = post(&format!("content-length: {}", MAX_BODY + 1));
        assert_eq!(said(&long).status(), Some(413));
        let endless = format!("POST /{} HTTP/1.1", "a".repeat(2 * MAX_HEAD));
        assert_eq!(said(&endless).status(), Some(413));
        assert_eq!(said(&post("content-length: 5")).status(), None, "cut off");
    }
}

//! The messages of `envoy.service.auth.v3.Authorization`, as far as they are read and written here.
//!
//! Fields and numbers: envoy/service/auth/v3/{external_auth,attribute_context}.proto, envoy/config/core/v3/base.proto,
//! envoy/type/v3/http_status.proto and google/rpc/status.proto. Fields that are not here are skipped on reading.

use std::collections::HashMap;

use prost::{Message, Oneof};

/// May this request be passed on?
#[derive(Clone, PartialEq, Message)]
pub struct CheckRequest {
    /// About the request.
    #[prost(message, optional, tag = "1")]
    pub attributes: Option<AttributeContext>,
}

/// About a request.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeContext {
    /// The request itself.
    #[prost(message, optional, tag = "4")]
    pub request: Option<Request>,
}

/// A request of some protocol.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// One of HTTP.
    #[prost(message, optional, tag = "2")]
    pub http: Option<HttpRequest>,
}

/// An HTTP request.
#[derive(Clone, PartialEq, Message)]
pub struct HttpRequest {
    /// The method.
    #[prost(string, tag = "2")]
    pub method: String,
    /// By name in small letters; those of a name in one value, with commas. Pseudo headers begin with a colon.
    #[prost(map = "string, string", tag = "3")]
    pub headers: HashMap<String, String>,
    /// Path and query.
    #[prost(string, tag = "4")]
    pub path: String,
    /// Host or authority.
    #[prost(string, tag = "5")]
    pub host: String,
    /// The body, if it was asked for as text: what is no UTF-8 is replaced in it.
    #[prost(string, tag = "11")]
    pub body: String,
    /// The body, if it was asked for as bytes.
    #[prost(bytes = "bytes", tag = "12")]
    pub raw_body: bytes::Bytes,
}

/// What is to be done.
#[derive(Clone, PartialEq, Message)]
pub struct CheckResponse {
    /// `OK` (0) passes the request on; everything else does not.
    #[prost(message, optional, tag = "1")]
    pub status: Option<Status>,
    /// How.
    #[prost(oneof = "HttpResponse", tags = "2, 3")]
    pub http_response: Option<HttpResponse>,
}

/// How the request is passed on or answered.
#[derive(Clone, PartialEq, Oneof)]
pub enum HttpResponse {
    /// It is answered.
    #[prost(message, tag = "2")]
    Denied(DeniedHttpResponse),
    /// It is passed on.
    #[prost(message, tag = "3")]
    Ok(OkHttpResponse),
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub struct Status {
    /// A code of gRPC.
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// An answer in the place of the upstream's.
#[derive(Clone, PartialEq, Message)]
pub struct DeniedHttpResponse {
    /// Its status.
    #[prost(message, optional, tag = "1")]
    pub status: Option<HttpStatus>,
    /// Its headers.
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderValueOption>,
    /// Its body.
    #[prost(string, tag = "3")]
    pub body: String,
}

/// `envoy.type.v3.HttpStatus`.
#[derive(Clone, PartialEq, Message)]
pub struct HttpStatus {
    /// The number.
    #[prost(int32, tag = "1")]
    pub code: i32,
}

/// Changes to a request that is passed on, and to its answer.
#[derive(Clone, PartialEq, Message)]
pub struct OkHttpResponse {
    /// Set on the request.
    #[prost(message, repeated, tag = "2")]
    pub headers: Vec<HeaderValueOption>,
    /// Taken away from it.
    #[prost(string, repeated, tag = "5")]
    pub headers_to_remove: Vec<String>,
    /// Added to the answer.
    #[prost(message, repeated, tag = "6")]
    pub response_headers_to_add: Vec<HeaderValueOption>,
}

/// A header, and what becomes of one that is there.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderValueOption {
    /// The header.
    #[prost(message, optional, tag = "1")]
    pub header: Option<HeaderValue>,
    /// [`OVERWRITE`] or [`APPEND`].
    #[prost(int32, tag = "3")]
    pub append_action: i32,
}

/// `OVERWRITE_IF_EXISTS_OR_ADD`.
pub const OVERWRITE: i32 = 2;

/// `APPEND_IF_EXISTS_OR_ADD`.
pub const APPEND: i32 = 0;

/// A header.
#[derive(Clone, PartialEq, Message)]
pub struct HeaderValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(string, tag = "2")]
    pub value: String,
}

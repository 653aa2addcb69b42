//! A tiny HTTP client for the programs' remote controls: one request a connection, small bodies.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// What a server answered.
pub(crate) struct Reply {
    /// The status code.
    pub(crate) status: u16,
    headers: String,
    /// The body as it came.
    pub(crate) body: Vec<u8>,
}

impl Reply {
    /// The value of a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as JSON, if the request succeeded.
    pub(crate) fn json(&self) -> Result<Value> {
        let text = String::from_utf8_lossy(&self.body);
        ensure!(self.status == 200, "HTTP status {}: {text}", self.status);
        serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
    }
}

/// GET of `path` at `server`.
pub(crate) fn get(server: SocketAddrV4, path: &str) -> Result<Reply> {
    exchange(server, &format!("GET {path} HTTP/1.1"), &[], &[])
}

/// POST of `body` to `path` at `server`, with these extra headers.
pub(crate) fn post(server: SocketAddrV4, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply> {
    exchange(server, &format!("POST {path} HTTP/1.1"), headers, body)
}

fn exchange(server: SocketAddrV4, line: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Reply> {
    let mut stream = TcpStream::connect_timeout(&server.into(), Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut head = format!("{line}\r\nHost: {server}\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    stream.write_all(body)?;

    let mut received = Vec::new();
    let mut part = [0; 16 * 1024];
    loop {
        if let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            let headers = String::from_utf8_lossy(&received[..end]).into_owned();
            let status = headers.split(' ').nth(1).and_then(|code| code.parse().ok()).context("no status line")?;
            let reply = Reply { status, headers, body: received[end + 4..].to_vec() };
            let length = reply.header("content-length").and_then(|length| length.parse::<usize>().ok());
            if length.is_some_and(|length| reply.body.len() >= length) {
                return Ok(reply);
            }
            let read = stream.read(&mut part)?;
            if read == 0 {
                return Ok(reply);
            }
            received.extend_from_slice(&part[..read]);
        } else {
            let read = stream.read(&mut part)?;
            ensure!(read > 0, "{server} closed the connection before it answered");
            received.extend_from_slice(&part[..read]);
        }
    }
}

//! HTTP/1.1 on a bare socket: for requests that no well-behaved client sends, for connections that
//! break, and for measuring without a client's own cost.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LARGEST_HEAD: usize = 64 * 1024;

/// One connection, kept alive over many requests.
#[derive(Debug)]
pub struct RawConnection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// What came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawReply {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
    /// Whether the server will close the connection.
    pub closes: bool,
}

impl RawConnection {
    /// Connects, with `TCP_NODELAY`.
    ///
    /// # Errors
    /// From the system.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::with_capacity(4096),
        })
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// From the system.
    pub async fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.stream.write_all(request).await
    }

    /// Sends a whole request and reads its answer.
    ///
    /// # Errors
    /// From the system, or when the answer is not HTTP/1.1 with a content length.
    pub async fn call(&mut self, request: &[u8]) -> io::Result<RawReply> {
        self.send(request).await?;
        self.receive().await
    }

    /// Reads one answer, past `100 Continue`.
    ///
    /// # Errors
    /// From the system, `UnexpectedEof` when the server closed, `InvalidData` when it is not
    /// HTTP/1.1 with a content length.
    pub async fn receive(&mut self) -> io::Result<RawReply> {
        let head = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = Head::parse(&self.buffer[..end], end + 4)?;
                if head.status >= 200 {
                    break head;
                }
                self.buffer.drain(..head.length);
                continue;
            }
            if self.buffer.len() > LARGEST_HEAD {
                return Err(invalid("the head has no end"));
            }
            self.fill().await?;
        };
        let end = head.length + head.content_length;
        while self.buffer.len() < end {
            self.fill().await?;
        }
        let body = self.buffer[head.length..end].to_vec();
        self.buffer.drain(..end);
        Ok(RawReply {
            status: head.status,
            body,
            closes: head.closes,
        })
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

/// A POST of these bytes, ready to be sent. `headers` are whole lines, each with its `\r\n`.
pub fn post(path: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: palisade\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

/// A GET, ready to be sent. `headers` are whole lines, each with its `\r\n`.
pub fn get(path_and_query: &str, headers: &str) -> Vec<u8> {
    format!("GET {path_and_query} HTTP/1.1\r\nhost: palisade\r\n{headers}\r\n").into_bytes()
}

/// A POST of JSON, ready to be sent.
pub fn post_json(path: &str, body: &[u8]) -> Vec<u8> {
    post(path, "content-type: application/json\r\n", body)
}

/// The head of an answer.
struct Head {
    /// Its own length, in bytes, with the empty line.
    length: usize,
    status: u16,
    content_length: usize,
    closes: bool,
}

impl Head {
    fn parse(text: &[u8], length: usize) -> io::Result<Self> {
        let text = std::str::from_utf8(text).map_err(|_| invalid("the head is not text"))?;
        let mut lines = text.split("\r\n");
        let status = lines
            .next()
            .and_then(|line| line.strip_prefix("HTTP/1.1 "))
            .and_then(|rest| rest.get(..3))
            .and_then(|status| status.parse().ok())
            .ok_or_else(|| invalid("no HTTP/1.1 status line"))?;
        let mut head = Self {
            length,
            status,
            content_length: 0,
            closes: false,
        };
        for line in lines {
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| invalid("a bad header"))?;
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                head.content_length = value.parse().map_err(|_| invalid("a bad length"))?;
            } else if name.eq_ignore_ascii_case("connection") {
                head.closes = value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                return Err(invalid("a body without a content length"));
            }
        }
        Ok(head)
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_tells_status_length_and_whether_the_connection_ends() {
        let text = b"HTTP/1.1 409 Conflict\r\nContent-Length: 12\r\nconnection: close";
        let head = Head::parse(text, 70).unwrap();
        assert_eq!((head.status, head.content_length), (409, 12));
        assert!(head.closes);
        assert!(Head::parse(b"HTTP/2 200\r\n", 12).is_err());
    }
}

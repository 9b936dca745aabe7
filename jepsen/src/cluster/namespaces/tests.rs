use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use super::super::links::Rules;
use super::*;

const LIMIT: Duration = Duration::from_secs(20);

/// Runs a test that takes this much of a link on a thread in a namespace of its own, where this user and
/// this machine have what that needs.
fn isolated<T: Future<Output = ()>>(
    takes: Option<Treatment>,
    test: impl FnOnce() -> T + Send + 'static,
) {
    let thread = std::thread::spawn(move || {
        let lacks = match isolate().and_then(|()| probe()) {
            Ok(lacks) => lacks.into_iter().find(|(lacked, _)| takes == Some(*lacked)),
            Err(why) => return eprintln!("SKIPPED: {why}"),
        };
        if let Some((_, why)) = lacks {
            return eprintln!("SKIPPED: {why}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(test());
    });
    thread.join().unwrap();
}

impl Namespaces {
    /// A socket of a node: sockets stay where they were made.
    fn within<T: Send>(&self, node: usize, make: impl FnOnce(IpAddr) -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.nodes[node].enter_thread();
                make(address(End::Node(node)).into())
            });
            thread.join().unwrap()
        })
    }

    fn datagrams(&self, node: usize) -> UdpSocket {
        let socket = self.within(node, |address| UdpSocket::bind((address, 5000)).unwrap());
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        socket
    }
}

fn arrives(from: &UdpSocket, to: &UdpSocket, word: &[u8; 4]) {
    from.send_to(word, to.local_addr().unwrap()).unwrap();
    let mut heard = [0; 4];
    to.recv(&mut heard).unwrap();
    assert_eq!(&heard, word);
}

fn rule(from: End, to: End, rule: Rule) -> Rules {
    Rules::from([((from, to), rule)])
}

/// A client's connection to a node, and the node's end of it.
fn connection(namespaces: &Namespaces, layout: &Layout) -> (TcpStream, TcpStream) {
    let at = layout.nodes[0].client;
    let listener = namespaces.within(0, |_| TcpListener::bind(at).unwrap());
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let from = SocketAddr::new(layout.clients[0].from.unwrap(), 0);
    socket.bind(&from.into()).unwrap();
    socket.connect(&at.into()).unwrap();
    let near = TcpStream::from(socket);
    let (far, seen) = listener.accept().unwrap();
    assert_eq!(seen.ip(), from.ip());
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(LIMIT)).unwrap();
    }
    (near, far)
}

#[test]
fn a_black_hole_drops_one_direction_until_it_is_mended() {
    isolated(None, || async {
        let (namespaces, _) = Namespaces::build(2, 1).await.unwrap();
        let (one, other) = (namespaces.datagrams(0), namespaces.datagrams(1));
        arrives(&one, &other, b"one ");
        arrives(&other, &one, b"two ");
        let hole = rule(End::Node(0), End::Node(1), Rule::Blackhole);
        namespaces.set(&hole).await.unwrap();
        arrives(&other, &one, b"back");
        one.send_to(b"lost", other.local_addr().unwrap()).unwrap();
        assert_eq!(namespaces.packets_met().await, Ok(1));
        namespaces.set(&Rules::new()).await.unwrap();
        // What is dropped is not kept.
        arrives(&one, &other, b"four");
    });
}

#[test]
fn a_lossy_link_loses_about_as_many_packets_as_told() {
    isolated(Some(Treatment::Loss), || async {
        let (namespaces, _) = Namespaces::build(2, 1).await.unwrap();
        let (one, other) = (namespaces.datagrams(0), namespaces.datagrams(1));
        arrives(&one, &other, b"one ");
        let loss = rule(End::Node(0), End::Node(1), Rule::Loss { percent: 30 });
        namespaces.set(&loss).await.unwrap();
        for _ in 0..1_000 {
            one.send_to(b"lost", other.local_addr().unwrap()).unwrap();
        }
        // Ten standard deviations on both sides.
        let lost = namespaces.packets_met().await.unwrap();
        assert!((155..=445).contains(&lost), "{lost} of 1000");
    });
}

#[test]
fn a_reset_link_ends_a_clients_connection() {
    isolated(None, || async {
        let (namespaces, layout) = Namespaces::build(1, 1).await.unwrap();
        let (mut near, _far) = connection(&namespaces, &layout);
        let reset = rule(End::Client(0), End::Node(0), Rule::Reset);
        namespaces.set(&reset).await.unwrap();
        near.write_all(b"one ").unwrap();
        let ended = near.read(&mut [0]).unwrap_err();
        assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn a_half_open_connection_is_gone_at_the_node_and_its_client_hears_of_it_in_the_end() {
    isolated(Some(Treatment::HalfOpen), || async {
        let (namespaces, layout) = Namespaces::build(1, 1).await.unwrap();
        let (mut near, mut far) = connection(&namespaces, &layout);
        let half_open = rule(End::Client(0), End::Node(0), Rule::HalfOpen);
        namespaces.set(&half_open).await.unwrap();
        let gone = far.read(&mut [0]).unwrap_err();
        assert_eq!(gone.kind(), std::io::ErrorKind::ConnectionAborted);
        near.set_nonblocking(true).unwrap();
        let quiet = near.read(&mut [0]).unwrap_err();
        assert_eq!(quiet.kind(), std::io::ErrorKind::WouldBlock);
        near.set_nonblocking(false).unwrap();
        near.write_all(b"one ").unwrap();
        namespaces.set(&Rules::new()).await.unwrap();
        let told = near.read(&mut [0]).unwrap_err();
        assert_eq!(told.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn nothing_is_left_of_a_network_that_is_dropped() {
    isolated(None, || async {
        let devices = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let (namespaces, _) = Namespaces::build(3, 2).await.unwrap();
        assert!(devices().contains("router:"));
        drop(namespaces);
        // The other end of its cable went with the router's namespace.
        let deadline = Instant::now() + LIMIT;
        while devices().contains("router:") {
            assert!(Instant::now() < deadline, "{}", devices());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

use std::{
    io::Write as _,
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    thread,
};

use super::*;

fn run<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
    Runtime::new().expect("io_uring is to be had").run(future)
}

#[test]
fn tasks_take_turns_and_end_with_what_they_give() {
    let sum = run(async {
        let tasks: Vec<_> = (0..100_u64)
            .map(|number| {
                spawn_local(async move {
                    for _ in 0..number {
                        futures_lite::future::yield_now().await;
                    }
                    number
                })
            })
            .collect();
        let mut sum = 0;
        for task in tasks {
            sum += task.await;
        }
        sum
    });
    assert_eq!(sum, 4950);
}

/// Wakes come at every moment of going to sleep: none may be lost.
#[test]
fn a_thread_is_woken_by_others_whenever_they_do() {
    let received = run(async {
        let (sender, receiver) = async_channel::unbounded();
        let (back, echoed) = async_channel::unbounded();
        let others: Vec<_> = (0..2)
            .map(|_| {
                let (sender, echoed) = (sender.clone(), echoed.clone());
                thread::spawn(move || {
                    for number in 0..5_000_u64 {
                        sender.send_blocking(number).expect("it is received");
                        echoed.recv_blocking().expect("each is echoed");
                    }
                })
            })
            .collect();
        drop(sender);
        let mut received = 0;
        while let Ok(number) = receiver.recv().await {
            received += 1;
            back.send(number).await.expect("somebody waits for it");
        }
        others.into_iter().for_each(|other| other.join().expect("it ends"));
        received
    });
    assert_eq!(received, 10_000);
}

#[test]
fn timers_fire_in_their_order_and_those_called_off_do_not() {
    let fired = run(async {
        let fired = Rc::new(RefCell::new(Vec::new()));
        let tasks: Vec<_> = [30, 10, 20]
            .map(|ms| {
                let fired = Rc::clone(&fired);
                spawn_local(async move {
                    sleep(Duration::from_millis(ms)).await;
                    fired.borrow_mut().push(ms);
                })
            })
            .into_iter()
            .collect();
        drop(spawn_local(sleep(Duration::from_millis(5))));
        for task in tasks {
            task.await;
        }
        fired.take()
    });
    assert_eq!(fired, [10, 20, 30]);
}

#[test]
fn a_busy_task_that_yields_leaves_room_for_timers_and_sockets() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    run(async move {
        let _busy = spawn_local(async {
            loop {
                yield_if_needed().await;
            }
        });
        sleep(Duration::from_millis(1)).await;
        client.write_all(b"x").unwrap();
        reactor().readable(socket.as_raw_fd()).await.unwrap();
        reactor().writable(socket.as_raw_fd()).await.unwrap();
    });
}

/// What waits when a thread ends: sockets that never have anything, timers far away, tasks that nobody awaits.
#[test]
fn what_still_waits_is_dropped_with_the_thread() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (socket, _) = listener.accept().unwrap();
    let alive = Rc::new(());
    let inner = Rc::clone(&alive);
    run(async move {
        let (held, socket) = (Rc::clone(&inner), Rc::new(socket));
        let reads = Rc::clone(&socket);
        spawn_local(async move {
            let _held = held;
            reactor().readable(reads.as_raw_fd()).await.unwrap();
        })
        .detach();
        let held = Rc::clone(&inner);
        spawn_local(async move {
            let _held = held;
            sleep(Duration::from_secs(3600)).await;
        })
        .detach();
        // One that is called off while it waits.
        let never = reactor();
        futures_lite::future::or(
            async {
                never.readable(socket.as_raw_fd()).await.unwrap();
            },
            async {
                sleep(Duration::from_millis(2)).await;
            },
        )
        .await;
        assert_eq!(unblock(|| 7).await, 7);
    });
    assert_eq!(Rc::strong_count(&alive), 1);
}

#[test]
fn more_waits_than_the_ring_has_entries_are_all_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pairs: Vec<_> = (0..400)
        .map(|_| {
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            (client, listener.accept().unwrap().0)
        })
        .collect();
    run(async move {
        let (mut clients, mut waiting) = (Vec::new(), Vec::new());
        for (client, socket) in pairs {
            clients.push(client);
            waiting.push(spawn_local(async move { reactor().readable(socket.as_raw_fd()).await }));
        }
        futures_lite::future::yield_now().await;
        for client in &mut clients {
            client.write_all(b"x").unwrap();
        }
        for wait in waiting {
            wait.await.unwrap();
        }
    });
}

//! Messages: from bytes to a question, from an answer to bytes that fit.

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record};

/// What a client that says nothing takes by UDP (RFC 1035).
const PLAIN_BYTES: u16 = 512;
/// The most that is sent by UDP: it passes every link without being cut (the advice of DNS Flag Day 2020).
const UDP_BYTES: u16 = 1232;

/// How a query came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Udp,
    Tcp,
}

/// A query that can be answered.
pub(crate) struct Question {
    pub(crate) message: Message,
    pub(crate) query: Query,
    pub(crate) way: Way,
}

/// What to do with received bytes.
pub(crate) enum Received {
    Question(Box<Question>),
    /// Not a question that can be answered: say so.
    Reject(Vec<u8>),
    /// Not a query at all: be silent.
    Ignore,
}

impl Question {
    /// The most bytes of an answer.
    fn limit(&self) -> usize {
        match (self.way, &self.message.edns) {
            (Way::Tcp, _) => usize::from(u16::MAX),
            (Way::Udp, None) => usize::from(PLAIN_BYTES),
            (Way::Udp, Some(edns)) => usize::from(edns.max_payload().clamp(PLAIN_BYTES, UDP_BYTES)),
        }
    }
}

/// Reads a query.
pub(crate) fn receive(bytes: &[u8], way: Way) -> Received {
    let message = match Message::from_vec(bytes) {
        Ok(message) => message,
        Err(_) => return malformed(bytes),
    };
    if message.metadata.message_type != MessageType::Query {
        return Received::Ignore;
    }
    let reject = |code| Received::Reject(refuse(&message, code));
    if message.metadata.op_code != OpCode::Query {
        return reject(ResponseCode::NotImp);
    }
    if message.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return reject(ResponseCode::BADVERS);
    }
    let [query] = &message.queries[..] else { return reject(ResponseCode::FormErr) };
    if !matches!(query.query_class(), DNSClass::IN | DNSClass::ANY) {
        return reject(ResponseCode::Refused);
    }
    let query = query.clone();
    Received::Question(Box::new(Question { message, query, way }))
}

/// The header may be readable though the rest is not.
fn malformed(bytes: &[u8]) -> Received {
    const RESPONSE: u8 = 0x80;
    match bytes {
        [high, low, flags, _, ..] if bytes.len() >= 12 && flags & RESPONSE == 0 => {
            let id = u16::from_be_bytes([*high, *low]);
            let answer = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            answer.to_vec().map_or(Received::Ignore, Received::Reject)
        }
        _ => Received::Ignore,
    }
}

fn refuse(query: &Message, code: ResponseCode) -> Vec<u8> {
    let mut answer = Message::error_msg(query.metadata.id, query.metadata.op_code, code);
    answer.queries.clone_from(&query.queries);
    if query.edns.is_some() {
        let mut edns = own_edns();
        edns.set_rcode_high(code.high());
        answer.edns = Some(edns);
    }
    answer.to_vec().unwrap_or_default()
}

fn own_edns() -> Edns {
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_BYTES).set_version(0);
    edns
}

/// An answer of ours to a question.
pub(crate) fn answer(question: &Question, code: ResponseCode, records: Vec<Record>) -> Message {
    let asked = &question.message.metadata;
    let mut message = Message::response(asked.id, asked.op_code);
    message.metadata.recursion_desired = asked.recursion_desired;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    message.queries.push(question.query.clone());
    message.answers = records;
    message
}

/// An answer as bytes that the client takes: what does not fit is left out, and that is said.
pub(crate) fn fit(question: &Question, mut message: Message) -> Vec<u8> {
    message.edns = question.message.edns.is_some().then(own_edns);
    let limit = question.limit();
    let encode = |message: &Message| message.to_vec().unwrap_or_default();
    let whole = encode(&message);
    if whole.len() <= limit {
        return whole;
    }
    message.additionals.clear();
    let without = encode(&message);
    if without.len() <= limit {
        return without;
    }
    message.metadata.truncation = true;
    let answers = std::mem::take(&mut message.answers);
    let mut with = |count: usize| {
        message.answers = answers[..count].to_vec();
        encode(&message)
    };
    // The largest count that fits, by bisection: how names are compressed makes sizes hard to foresee.
    let (mut fits, mut not) = (0, answers.len());
    while fits + 1 < not {
        let middle = usize::midpoint(fits, not);
        if with(middle).len() <= limit { fits = middle } else { not = middle }
    }
    with(fits)
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, RecordType};
    use proptest::prelude::*;

    use super::*;

    fn question(records: usize, payload: Option<u16>) -> Question {
        let name = Name::from_ascii("a-rather-long-name.ns.svc.cluster.local.").unwrap();
        let query = Query::query(name, RecordType::A);
        let mut message = Message::query();
        message.queries.push(query.clone());
        message.edns = payload.map(|payload| {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            edns
        });
        let way = if records > 2000 { Way::Tcp } else { Way::Udp };
        Question { message, query, way }
    }

    proptest! {
        #[test]
        fn anything_may_arrive(bytes in prop::collection::vec(any::<u8>(), 0..600), query in any::<bool>()) {
            let mut bytes = bytes;
            if query && bytes.len() > 6 {
                // One question and nothing else, so that more than the header is read.
                bytes[2..6].copy_from_slice(&[1, 0, 0, 1]);
            }
            for way in [Way::Udp, Way::Tcp] {
                if let Received::Question(question) = receive(&bytes, way) {
                    let answer = answer(&question, ResponseCode::NXDomain, Vec::new());
                    let answer = Message::from_vec(&fit(&question, answer)).unwrap();
                    prop_assert_eq!(answer.metadata.id, question.message.metadata.id);
                }
            }
        }

        #[test]
        fn answers_are_as_large_as_fits(records in 0usize..2500, payload in prop::option::of(0u16..5000)) {
            let question = question(records, payload);
            let name = question.query.name().clone();
            let record = |number: usize| {
                let address = std::net::Ipv4Addr::from(number as u32);
                Record::from_rdata(name.clone(), 5, RData::A(A(address)))
            };
            let all = answer(&question, ResponseCode::NoError, (0..records).map(record).collect());
            let bytes = fit(&question, all);
            prop_assert!(bytes.len() <= question.limit());
            let fitted = Message::from_vec(&bytes).unwrap();
            prop_assert_eq!(fitted.metadata.truncation, fitted.answers.len() < records);
            // One more would not have fitted (16 bytes each, when the name is a reference).
            prop_assert!(!fitted.metadata.truncation || bytes.len() + 60 > question.limit());
        }
    }
}

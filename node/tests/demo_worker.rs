//! The demo worker as its clients and its sidecar see it.
#![allow(
    clippy::unwrap_used,
    reason = "helpers outside of test functions fail a test the same way"
)]

use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use pontoon::demo::inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use pontoon::demo::inference::model_infer_request::InferInputTensor;
use pontoon::demo::inference::{
    ModelInferRequest, ModelMetadataRequest, ModelReadyRequest, ServerReadyRequest,
};
use pontoon::demo::tensor::{self, Data, Form, Tensor};
use pontoon::demo::worker::Worker;
use pontoon::{net, tasks};
use tonic::transport::Channel;
use tonic::{Code, Request};

async fn serve() -> (String, GrpcInferenceServiceClient<Channel>) {
    let listener = net::listen("a test", "127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(tasks::spawn(
        tasks::Kind::Worker,
        "worker",
        Worker::new("w1").serve(listener),
    ));
    let client = GrpcInferenceServiceClient::connect(format!("http://{address}"))
        .await
        .unwrap();
    (address, client)
}

fn request(model: &str, tensors: Vec<Tensor>) -> ModelInferRequest {
    let mut request = ModelInferRequest {
        model_name: model.to_owned(),
        ..Default::default()
    };
    for tensor in tensors {
        let mut input = InferInputTensor {
            name: tensor.name,
            datatype: tensor.datatype,
            shape: tensor.shape,
            ..Default::default()
        };
        match tensor.data {
            Data::Raw(raw) => request.raw_input_contents.push(raw),
            Data::Typed(typed) => input.contents = Some(typed),
        }
        request.inputs.push(input);
    }
    request
}

fn in_session<T>(session: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request
        .metadata_mut()
        .insert("nvcf-reqid", session.parse().unwrap());
    request
}

#[tokio::test]
async fn identity_gives_back_what_it_got_in_the_form_it_got_it() {
    let (_, mut client) = serve().await;
    for form in [Form::Raw, Form::Typed] {
        let tensors = vec![
            Tensor::int64("a", 7, form),
            Tensor::text("b", "hello", form),
        ];
        let answer = client
            .model_infer(request("identity", tensors.clone()))
            .await
            .unwrap()
            .into_inner();
        assert_eq!(answer.raw_output_contents.is_empty(), form == Form::Typed);
        assert_eq!(tensor::outputs(answer), tensors);
    }
}

#[tokio::test]
async fn identity_carries_sixteen_mebibytes() {
    let (_, client) = serve().await;
    let tensor = Tensor {
        name: "big".to_owned(),
        datatype: "UINT8".to_owned(),
        shape: vec![16 << 20],
        data: Data::Raw(vec![42; 16 << 20].into()),
    };
    let answer = client
        .max_decoding_message_size(64 << 20)
        .model_infer(request("identity", vec![tensor.clone()]))
        .await
        .unwrap();
    assert!(tensor::outputs(answer.into_inner()) == [tensor]);
}

#[tokio::test]
async fn sum_runs_per_session_and_says_who_and_which() {
    let (_, mut client) = serve().await;
    for (session, x, wanted) in [("s1", 2, 2), ("s1", 3, 5), ("s2", 1, 1)] {
        let call = in_session(
            session,
            request("sum", vec![Tensor::int64("x", x, Form::Raw)]),
        );
        let outputs = tensor::outputs(client.model_infer(call).await.unwrap().into_inner());
        assert_eq!(outputs[0].as_int64(), Some(wanted));
        assert_eq!(outputs[1].as_text(), Some("w1"));
        assert_eq!(outputs[2].as_text(), Some(session));
    }
}

#[tokio::test]
async fn a_stream_answers_each_request_in_order_and_survives_a_refused_one() {
    let (_, mut client) = serve().await;
    let requests = [
        request("sum", vec![Tensor::int64("x", 1, Form::Raw)]),
        request("nonsense", vec![]),
        request("sum", vec![Tensor::int64("x", 4, Form::Typed)]),
    ];
    let call = in_session("s", tokio_stream::iter(requests));
    let mut answers = client.model_stream_infer(call).await.unwrap().into_inner();
    let mut sums = Vec::new();
    while let Some(answer) = answers.message().await.unwrap() {
        sums.push(match answer.infer_response {
            Some(response) => tensor::outputs(response)[0].as_int64().unwrap(),
            None => {
                assert!(
                    answer.error_message.contains("no model `nonsense`"),
                    "{}",
                    answer.error_message
                );
                -1
            }
        });
    }
    assert_eq!(sums, [1, -1, 5]);
}

#[tokio::test]
async fn a_session_that_ended_starts_again_from_nothing() {
    let (address, mut client) = serve().await;
    let mut add = async |x| {
        let call = in_session("s", request("sum", vec![Tensor::int64("x", x, Form::Raw)]));
        tensor::outputs(client.model_infer(call).await.unwrap().into_inner())[0].as_int64()
    };
    assert_eq!(add(5).await, Some(5));
    assert_eq!(
        http(&address, "GET", "/sessions", "").await,
        (200, "{\"sessions\": 1}\n".to_owned())
    );
    let ended = r#"{"request_id": "s", "reason": "expired"}"#;
    assert_eq!(http(&address, "POST", "/session-ended", ended).await.0, 204);
    assert_eq!(
        http(&address, "GET", "/sessions", "").await,
        (200, "{\"sessions\": 0}\n".to_owned())
    );
    assert_eq!(add(5).await, Some(5));
    let (status, text) = http(&address, "POST", "/session-ended", "{}").await;
    assert_eq!(status, 400);
    assert!(text.contains("request_id"), "{text}");
}

#[tokio::test]
async fn wrong_models_shapes_and_calls_without_a_session_are_refused_in_words() {
    let (_, mut client) = serve().await;
    let x = || vec![Tensor::int64("x", 1, Form::Raw)];
    let wide = Tensor {
        shape: vec![2],
        ..Tensor::int64("x", 1, Form::Raw)
    };
    for (call, code, text) in [
        (
            in_session("s", request("resnet", x())),
            Code::NotFound,
            "no model `resnet`",
        ),
        (
            in_session("s", request("sum", vec![wide])),
            Code::InvalidArgument,
            "has 1 elements, not 2",
        ),
        (
            in_session("s", request("sum", vec![])),
            Code::InvalidArgument,
            "exactly one input",
        ),
        (
            Request::new(request("sum", x())),
            Code::InvalidArgument,
            "no nvcf-reqid",
        ),
    ] {
        let status = client.model_infer(call).await.unwrap_err();
        assert_eq!(status.code(), code);
        assert!(status.message().contains(text), "{}", status.message());
    }
}

#[tokio::test]
async fn metadata_readiness_health_and_reflection_answer() {
    let (address, mut client) = serve().await;
    assert!(
        client
            .server_ready(ServerReadyRequest {})
            .await
            .unwrap()
            .into_inner()
            .ready
    );
    let ready = ModelReadyRequest {
        name: "sum".to_owned(),
        version: String::new(),
    };
    assert!(client.model_ready(ready).await.unwrap().into_inner().ready);
    let about = ModelMetadataRequest {
        name: "sum".to_owned(),
        version: "1".to_owned(),
    };
    assert_eq!(
        client
            .model_metadata(about)
            .await
            .unwrap()
            .into_inner()
            .outputs
            .len(),
        3
    );

    let channel = Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let status = health
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await
        .unwrap();
    assert_eq!(status.into_inner().status, 1);

    use tonic_reflection::pb::v1 as reflection;
    let mut client = reflection::server_reflection_client::ServerReflectionClient::new(channel);
    let list = reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(
            reflection::server_reflection_request::MessageRequest::ListServices(String::new()),
        ),
    };
    let answers = client
        .server_reflection_info(tokio_stream::iter([list]))
        .await
        .unwrap();
    let answer = format!("{:?}", answers.into_inner().message().await.unwrap());
    assert!(
        answer.contains("inference.GRPCInferenceService"),
        "{answer}"
    );
}

async fn http(address: &str, method: &str, path: &str, body: &str) -> (u16, String) {
    let stream = net::dial(address, std::time::Duration::from_secs(5))
        .await
        .unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    drop(tasks::spawn(tasks::Kind::Worker, "client", async {
        drop(connection.await)
    }));
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("host", address)
        .body(body.to_owned())
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

//! The demo worker's two models: `identity`, and `sum`, whose memory shows where a session went.
//!
//! [`Memory`] is a plain value; the server keeps one behind a lock. Pure.

use super::inference::model_metadata_response::TensorMetadata;
use super::inference::{ModelInferRequest, ModelInferResponse, ModelMetadataResponse};
use super::tensor::{self, Malformed, Tensor};
use std::collections::BTreeMap;

/// How many sessions one worker remembers.
///
/// Four times the most slots that a worker may have (16,384), so that ends which arrive late never
/// fill it; an entry is about 100 bytes, so a full memory is about 7 MB.
pub const SESSIONS_MAX: usize = 65_536;

/// The models' names.
pub const MODELS: [&str; 2] = ["identity", "sum"];

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such model or version of it.
    #[error("this worker has no model `{0}`; it has `identity` and `sum`")]
    UnknownModel(String),
    /// The request is not one for this model.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// The model needs a session and the call named none.
    #[error("model `sum` keeps its sum per session and the call has no nvcf-reqid metadata")]
    NoSession,
    /// The sum left the range of an INT64; it stays as it was.
    #[error("the running sum would leave the range of INT64")]
    Overflow,
    /// Too many sessions.
    #[error("this worker remembers {SESSIONS_MAX} sessions already")]
    Full,
}

/// What one worker remembers: a running sum per session.
#[derive(Debug, Default)]
pub struct Memory {
    sums: BTreeMap<String, i64>,
}

impl Memory {
    /// Answers a request that came in the named session.
    pub fn infer(
        &mut self,
        worker: &str,
        session: Option<&str>,
        mut request: ModelInferRequest,
    ) -> Result<ModelInferResponse, Refusal> {
        known(&request.model_name, &request.model_version)?;
        let (form, inputs) = tensor::inputs(&mut request)?;
        if request.model_name == "identity" {
            return Ok(tensor::answer(&request, inputs)?);
        }
        let x = match &inputs[..] {
            [input] if input.name == "x" => input.as_int64(),
            _ => None,
        }
        .ok_or_else(|| {
            Malformed("model `sum` takes exactly one input: `x`, INT64, shape [1]".to_owned())
        })?;
        let session = session.ok_or(Refusal::NoSession)?;
        let before = self.sums.get(session).copied();
        if before.is_none() && self.sums.len() >= SESSIONS_MAX {
            return Err(Refusal::Full);
        }
        let sum = before
            .unwrap_or(0)
            .checked_add(x)
            .ok_or(Refusal::Overflow)?;
        let outputs = vec![
            Tensor::int64("sum", sum, form),
            Tensor::text("worker", worker, form),
            Tensor::text("session", session, form),
        ];
        let answer = tensor::answer(&request, outputs)?;
        self.sums.insert(session.to_owned(), sum);
        Ok(answer)
    }

    /// Forgets a session; whether there was one.
    pub fn end(&mut self, session: &str) -> bool {
        self.sums.remove(session).is_some()
    }

    /// How many sessions are remembered.
    pub fn len(&self) -> usize {
        self.sums.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }
}

/// Whether the worker has this model in this version (empty: any).
pub fn known(name: &str, version: &str) -> Result<(), Refusal> {
    match (MODELS.contains(&name), version) {
        (true, "" | "1") => Ok(()),
        (true, _) => Err(Refusal::UnknownModel(format!("{name}` version `{version}"))),
        (false, _) => Err(Refusal::UnknownModel(name.to_owned())),
    }
}

/// What goes in and out of a model.
pub fn metadata(name: &str, version: &str) -> Result<ModelMetadataResponse, Refusal> {
    known(name, version)?;
    let tensor = |name: &str, datatype: &str| TensorMetadata {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: vec![1],
    };
    // `identity` takes any tensors, which the protocol has no words for: it lists none.
    let (inputs, outputs) = if name == "sum" {
        (
            vec![tensor("x", "INT64")],
            vec![
                tensor("sum", "INT64"),
                tensor("worker", "BYTES"),
                tensor("session", "BYTES"),
            ],
        )
    } else {
        (Vec::new(), Vec::new())
    };
    Ok(ModelMetadataResponse {
        name: name.to_owned(),
        versions: vec!["1".to_owned()],
        platform: "pontoon_demo".to_owned(),
        inputs,
        outputs,
    })
}

#[cfg(test)]
mod tests {
    use super::super::inference::InferTensorContents;
    use super::super::inference::model_infer_request::{
        InferInputTensor, InferRequestedOutputTensor,
    };
    use super::*;

    fn sum(x: i64) -> ModelInferRequest {
        ModelInferRequest {
            model_name: "sum".to_owned(),
            inputs: vec![InferInputTensor {
                name: "x".to_owned(),
                datatype: "INT64".to_owned(),
                shape: vec![1],
                contents: Some(InferTensorContents {
                    int64_contents: vec![x],
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    fn value(answer: ModelInferResponse) -> i64 {
        tensor::outputs(answer)[0].as_int64().unwrap()
    }

    #[test]
    fn each_session_has_its_own_running_sum_until_it_ends() {
        let mut memory = Memory::default();
        assert_eq!(value(memory.infer("w", Some("a"), sum(2)).unwrap()), 2);
        assert_eq!(value(memory.infer("w", Some("b"), sum(10)).unwrap()), 10);
        assert_eq!(value(memory.infer("w", Some("a"), sum(3)).unwrap()), 5);
        assert!(memory.end("a"));
        assert!(!memory.end("a"));
        assert_eq!(value(memory.infer("w", Some("a"), sum(1)).unwrap()), 1);
        assert_eq!(memory.len(), 2);
    }

    #[test]
    fn a_refused_request_leaves_the_sum_as_it_was() {
        let mut memory = Memory::default();
        memory.infer("w", Some("a"), sum(i64::MAX)).unwrap();
        assert_eq!(memory.infer("w", Some("a"), sum(1)), Err(Refusal::Overflow));
        let mut wrong = sum(1);
        wrong.outputs = vec![InferRequestedOutputTensor {
            name: "product".to_owned(),
            ..Default::default()
        }];
        assert!(matches!(
            memory.infer("w", Some("b"), wrong),
            Err(Refusal::Malformed(_))
        ));
        assert_eq!(memory.infer("w", None, sum(1)), Err(Refusal::NoSession));
        assert_eq!(memory.len(), 1);
    }

    #[test]
    fn only_the_outputs_that_were_asked_for_come_back() {
        let mut request = sum(4);
        request.outputs = ["worker", "sum"]
            .map(|name| InferRequestedOutputTensor {
                name: name.to_owned(),
                ..Default::default()
            })
            .to_vec();
        let answer = Memory::default().infer("w", Some("a"), request).unwrap();
        let names: Vec<_> = answer
            .outputs
            .iter()
            .map(|output| output.name.as_str())
            .collect();
        assert_eq!(names, ["worker", "sum"]);
    }

    #[test]
    fn an_unknown_model_or_version_is_named_in_the_refusal() {
        let mut request = sum(1);
        request.model_name = "resnet".to_owned();
        let refusal = Memory::default()
            .infer("w", Some("a"), request)
            .unwrap_err();
        assert!(refusal.to_string().contains("`resnet`"), "{refusal}");
        assert!(
            known("sum", "2")
                .unwrap_err()
                .to_string()
                .contains("version `2`")
        );
    }
}

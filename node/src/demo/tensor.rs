//! Tensors as they cross the wire, in both of the protocol's forms, and what is wrong with them.
//!
//! A request carries its tensors either *raw* (`raw_input_contents`, little-endian bytes, one entry
//! per input; a BYTES element is a 4-byte little-endian length and that many bytes) or *typed*
//! (`contents`). Answers come in the form of the question, so that a client reads what it writes.
//!
//! Pure: bytes in, values out.

use super::inference::model_infer_request::InferInputTensor;
use super::inference::model_infer_response::InferOutputTensor;
use super::inference::{InferTensorContents, ModelInferRequest, ModelInferResponse};
use bytes::Bytes;

/// How a request carries its elements, and so its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Bytes beside the tensors.
    Raw,
    /// Lists inside the tensors.
    Typed,
}

/// A tensor whose data fits its datatype and shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// `INT64`, `BYTES`, ...
    pub datatype: String,
    /// Sizes by dimension.
    pub shape: Vec<i64>,
    /// Its elements.
    pub data: Data,
}

/// A tensor's elements.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Little-endian bytes.
    Raw(Bytes),
    /// A list.
    Typed(InferTensorContents),
}

/// What is wrong with a tensor; the text names it and says what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

impl Tensor {
    /// A tensor of one INT64.
    pub fn int64(name: &str, value: i64, form: Form) -> Self {
        let data = match form {
            Form::Raw => Data::Raw(Bytes::copy_from_slice(&value.to_le_bytes())),
            Form::Typed => Data::Typed(InferTensorContents {
                int64_contents: vec![value],
                ..Default::default()
            }),
        };
        Self::one(name, "INT64", data)
    }

    /// A tensor of one BYTES element.
    pub fn text(name: &str, value: &str, form: Form) -> Self {
        let data = match form {
            Form::Raw => {
                let length = u32::try_from(value.len()).unwrap_or(u32::MAX);
                Data::Raw(
                    [&length.to_le_bytes()[..], value.as_bytes()]
                        .concat()
                        .into(),
                )
            }
            Form::Typed => Data::Typed(InferTensorContents {
                bytes_contents: vec![Bytes::copy_from_slice(value.as_bytes())],
                ..Default::default()
            }),
        };
        Self::one(name, "BYTES", data)
    }

    fn one(name: &str, datatype: &str, data: Data) -> Self {
        Self {
            name: name.to_owned(),
            datatype: datatype.to_owned(),
            shape: vec![1],
            data,
        }
    }

    /// The value of a tensor of one INT64, if it is one.
    pub fn as_int64(&self) -> Option<i64> {
        if self.datatype != "INT64" || self.shape != [1] {
            return None;
        }
        match &self.data {
            Data::Raw(raw) => Some(i64::from_le_bytes(raw.as_ref().try_into().ok()?)),
            Data::Typed(typed) => typed.int64_contents.first().copied(),
        }
    }

    /// The text of a tensor of one BYTES element, if it is one and is UTF-8.
    pub fn as_text(&self) -> Option<&str> {
        if self.datatype != "BYTES" || self.shape != [1] {
            return None;
        }
        let bytes = match &self.data {
            Data::Raw(raw) => raw.get(4..)?,
            Data::Typed(typed) => typed.bytes_contents.first()?,
        };
        std::str::from_utf8(bytes).ok()
    }

    fn check(self) -> Result<Self, Malformed> {
        let Self {
            name,
            datatype,
            shape,
            data,
        } = &self;
        let wanted = shape
            .iter()
            .try_fold(1_usize, |count, size| {
                count.checked_mul(usize::try_from(*size).ok()?)
            })
            .ok_or_else(|| {
                Malformed(format!(
                    "shape {shape:?} of tensor `{name}` is out of range"
                ))
            })?;
        let found = match data {
            Data::Raw(raw) => match width(datatype) {
                Some(Width::Fixed(width)) if raw.len() % width == 0 => raw.len() / width,
                Some(Width::Fixed(width)) => {
                    return Err(Malformed(format!(
                        "tensor `{name}` has {} raw bytes, which is not a multiple of {width}, the size of a {datatype}",
                        raw.len()
                    )));
                }
                Some(Width::Prefixed) => count_prefixed(raw).ok_or_else(|| {
                    Malformed(format!(
                        "the raw bytes of tensor `{name}` end inside an element; each BYTES element is a 4-byte little-endian length and that many bytes"
                    ))
                })?,
                None => return Err(unknown(name, datatype)),
            },
            Data::Typed(typed) => count_typed(datatype, typed).ok_or_else(|| match width(datatype) {
                Some(_) => Malformed(format!(
                    "tensor `{name}` of {datatype} has contents only in raw form: send raw_input_contents"
                )),
                None => unknown(name, datatype),
            })?,
        };
        if found == wanted {
            Ok(self)
        } else {
            Err(Malformed(format!(
                "tensor `{name}` of shape {shape:?} has {found} elements, not {wanted}"
            )))
        }
    }
}

/// Takes a request's tensors, each checked against its own datatype and shape.
pub fn inputs(request: &mut ModelInferRequest) -> Result<(Form, Vec<Tensor>), Malformed> {
    let tensors = std::mem::take(&mut request.inputs);
    let raw = std::mem::take(&mut request.raw_input_contents);
    if raw.is_empty() {
        let typed = tensors
            .into_iter()
            .map(|mut tensor| {
                let contents = tensor.contents.take().unwrap_or_default();
                named(tensor, Data::Typed(contents)).check()
            })
            .collect::<Result<_, _>>()?;
        return Ok((Form::Typed, typed));
    }
    if raw.len() != tensors.len() {
        return Err(Malformed(format!(
            "the request has {} inputs and {} raw_input_contents: send one for each input, or none",
            tensors.len(),
            raw.len()
        )));
    }
    let raw = tensors
        .into_iter()
        .zip(raw)
        .map(|(tensor, raw)| match tensor.contents {
            Some(_) => Err(Malformed(format!(
                "input `{}` has both contents and raw_input_contents: send one of them",
                tensor.name
            ))),
            None => named(tensor, Data::Raw(raw)).check(),
        })
        .collect::<Result<_, _>>()?;
    Ok((Form::Raw, raw))
}

/// Builds the answer, with the outputs that the request named, or all when it named none.
pub fn answer(
    request: &ModelInferRequest,
    mut outputs: Vec<Tensor>,
) -> Result<ModelInferResponse, Malformed> {
    if !request.outputs.is_empty() {
        let mut chosen = Vec::with_capacity(outputs.len());
        for wanted in &request.outputs {
            let at = outputs
                .iter()
                .position(|tensor| tensor.name == wanted.name)
                .ok_or_else(|| {
                    Malformed(format!(
                        "model `{}` has no output `{}`",
                        request.model_name, wanted.name
                    ))
                })?;
            chosen.push(outputs.swap_remove(at));
        }
        outputs = chosen;
    }
    let mut response = ModelInferResponse {
        model_name: request.model_name.clone(),
        model_version: "1".to_owned(),
        id: request.id.clone(),
        ..Default::default()
    };
    for tensor in outputs {
        let mut output = InferOutputTensor {
            name: tensor.name,
            datatype: tensor.datatype,
            shape: tensor.shape,
            ..Default::default()
        };
        match tensor.data {
            Data::Raw(raw) => response.raw_output_contents.push(raw),
            Data::Typed(typed) => output.contents = Some(typed),
        }
        response.outputs.push(output);
    }
    Ok(response)
}

/// Takes an answer's tensors, for a client.
pub fn outputs(response: ModelInferResponse) -> Vec<Tensor> {
    let mut raw = response.raw_output_contents.into_iter();
    response
        .outputs
        .into_iter()
        .map(|output| Tensor {
            name: output.name,
            datatype: output.datatype,
            shape: output.shape,
            data: match output.contents {
                Some(typed) => Data::Typed(typed),
                None => Data::Raw(raw.next().unwrap_or_default()),
            },
        })
        .collect()
}

fn named(tensor: InferInputTensor, data: Data) -> Tensor {
    Tensor {
        name: tensor.name,
        datatype: tensor.datatype,
        shape: tensor.shape,
        data,
    }
}

fn unknown(name: &str, datatype: &str) -> Malformed {
    Malformed(format!(
        "tensor `{name}` has the unknown datatype `{datatype}`"
    ))
}

enum Width {
    Fixed(usize),
    Prefixed,
}

fn width(datatype: &str) -> Option<Width> {
    Some(match datatype {
        "BOOL" | "INT8" | "UINT8" => Width::Fixed(1),
        "INT16" | "UINT16" | "FP16" | "BF16" => Width::Fixed(2),
        "INT32" | "UINT32" | "FP32" => Width::Fixed(4),
        "INT64" | "UINT64" | "FP64" => Width::Fixed(8),
        "BYTES" => Width::Prefixed,
        _ => return None,
    })
}

fn count_typed(datatype: &str, typed: &InferTensorContents) -> Option<usize> {
    Some(match datatype {
        "BOOL" => typed.bool_contents.len(),
        "INT8" | "INT16" | "INT32" => typed.int_contents.len(),
        "INT64" => typed.int64_contents.len(),
        "UINT8" | "UINT16" | "UINT32" => typed.uint_contents.len(),
        "UINT64" => typed.uint64_contents.len(),
        "FP32" => typed.fp32_contents.len(),
        "FP64" => typed.fp64_contents.len(),
        "BYTES" => typed.bytes_contents.len(),
        _ => return None,
    })
}

fn count_prefixed(mut raw: &[u8]) -> Option<usize> {
    let mut count = 0;
    while !raw.is_empty() {
        let (length, rest) = raw.split_first_chunk::<4>()?;
        raw = rest.get(u32::from_le_bytes(*length) as usize..)?;
        count += 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(datatype: &str, shape: Vec<i64>, raw: &[u8]) -> ModelInferRequest {
        ModelInferRequest {
            model_name: "identity".to_owned(),
            inputs: vec![InferInputTensor {
                name: "t".to_owned(),
                datatype: datatype.to_owned(),
                shape,
                ..Default::default()
            }],
            raw_input_contents: vec![Bytes::copy_from_slice(raw)],
            ..Default::default()
        }
    }

    #[test]
    fn data_that_does_not_fit_its_shape_is_refused_with_both_numbers() {
        for (datatype, shape, raw, text) in [
            ("INT64", vec![2], &[0; 8][..], "has 1 elements, not 2"),
            ("INT32", vec![1], &[0; 5], "not a multiple of 4"),
            (
                "BYTES",
                vec![1],
                &[9, 0, 0, 0, b'a'],
                "end inside an element",
            ),
            (
                "BYTES",
                vec![2],
                &[1, 0, 0, 0, b'a'],
                "has 1 elements, not 2",
            ),
            ("INT64", vec![-1], &[0; 8], "out of range"),
            ("INT64", vec![i64::MAX, 4], &[0; 8], "out of range"),
            ("COMPLEX", vec![1], &[0; 8], "unknown datatype"),
        ] {
            let error = inputs(&mut request(datatype, shape, raw)).unwrap_err();
            assert!(error.0.contains(text), "{error}");
        }
    }

    #[test]
    fn a_missing_or_doubled_raw_tensor_is_refused() {
        let mut extra = request("INT64", vec![1], &[0; 8]);
        extra.raw_input_contents.push(Bytes::new());
        assert!(
            inputs(&mut extra)
                .unwrap_err()
                .0
                .contains("one for each input")
        );
        let mut both = request("INT64", vec![1], &[0; 8]);
        both.inputs[0].contents = Some(InferTensorContents::default());
        assert!(
            inputs(&mut both)
                .unwrap_err()
                .0
                .contains("send one of them")
        );
    }

    #[test]
    fn one_value_reads_back_in_both_forms() {
        for form in [Form::Raw, Form::Typed] {
            assert_eq!(
                Tensor::int64("x", -7, form).check().unwrap().as_int64(),
                Some(-7)
            );
            assert_eq!(
                Tensor::text("w", "wörker", form).check().unwrap().as_text(),
                Some("wörker")
            );
        }
    }

    #[test]
    fn an_empty_tensor_has_no_elements_in_either_form() {
        assert!(inputs(&mut request("FP32", vec![0, 3], &[])).is_ok());
        let mut typed = request("FP32", vec![0, 3], &[]);
        typed.raw_input_contents.clear();
        assert!(inputs(&mut typed).is_ok());
    }
}

//! A certificate authority and a certificate for `secure.test`, valid from 2000 to 2100, made once with openssl for these
//! tests alone: the key protects nothing.

use data_encoding::BASE64;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

pub(super) fn authority() -> CertificateDer<'static> {
    decode(AUTHORITY).into()
}
pub(super) fn certificate() -> CertificateDer<'static> {
    decode(CERTIFICATE).into()
}
pub(super) fn key() -> PrivateKeyDer<'static> {
    PrivatePkcs8KeyDer::from(decode(KEY)).into()
}
fn decode(text: &str) -> Vec<u8> {
    BASE64.decode(text.as_bytes()).unwrap()
}

const AUTHORITY: &str = "MIIBUzCB+qADAgECAhRoOFqQrsq2dMU4KqRBxj0MOwQ2pjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDAR0ZXN0MCAXDTAwMDEwMTAw\
    MDAwMFoYDzIxMDAwMTAxMDAwMDAwWjAPMQ0wCwYDVQQDDAR0ZXN0MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEeXrRNAyh0yyI\
    YLOCH62BEzGcei61ijpBxectlbTBX8EaYOzqhC1p2bsKLxgCE7yo7dkwrbiFbTVOdNs/SEaNZ6MyMDAwDwYDVR0TAQH/BAUwAwEB\
    /zAdBgNVHQ4EFgQUaT6YuTEHqu2aYUe1lKpiF5jmqSswCgYIKoZIzj0EAwIDSAAwRQIgVMLCDugnCYMreTNG4WZe2jolMdMpJTTe\
    cWRu8CzNGX4CIQChPu4kBjYjdLVYnifJeAuPavQH+DGDWI58eSN/bKX3iA==";
const CERTIFICATE: &str = "MIIBhzCCAS2gAwIBAgIUVAjqXsKpaOqh/KTCp5zBJsOkZlQwCgYIKoZIzj0EAwIwDzENMAsGA1UEAwwEdGVzdDAgFw0wMDAxMDEw\
    MDAwMDBaGA8yMTAwMDEwMTAwMDAwMFowDzENMAsGA1UEAwwEbGVhZjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABK+h0biZDW2A\
    ObQruywf3JA8Ggr7ycTC8PqYBK9wzGU+mNA/KDbRxIzAkJimSl40NOF/jM7tglDYqFuJSbCx1GijZTBjMBYGA1UdEQQPMA2CC3Nl\
    Y3VyZS50ZXN0MAkGA1UdEwQCMAAwHQYDVR0OBBYEFNYMw0WNlTNQa/SlV6sK4czEyuv+MB8GA1UdIwQYMBaAFGk+mLkxB6rtmmFH\
    tZSqYheY5qkrMAoGCCqGSM49BAMCA0gAMEUCIQCDmzDhmp3EWL/XEdhz0ONVuwPqef5Dpp4l4OW+yYbTrwIgfTogP9nrJfO90Evb\
    lza1ua5WNmmRjWL6oc33DKzuXu4=";
const KEY: &str = "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgeJ9j3Hs6KNuXVChV/6/6ZGQlXTObP9JOLc0r5QdhZE+hRANCAASv\
    odG4mQ1tgDm0K7ssH9yQPBoK+8nEwvD6mASvcMxlPpjQPyg20cSMwJCYpkpeNDThf4zO7YJQ2KhbiUmwsdRo";

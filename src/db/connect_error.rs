//! Adds the place, and advice, to errors of connecting.

use std::io;

use sqlx::postgres::PgConnectOptions;

/// Adds the address to an error that does not name it.
pub(super) fn at(options: &PgConnectOptions, error: sqlx::Error) -> sqlx::Error {
    let sqlx::Error::Io(error) = error else { return error };
    let advice = certificate_advice(&error.to_string());
    let place = match options.get_socket() {
        Some(socket) => socket.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    sqlx::Error::Io(io::Error::new(error.kind(), format!("{place}: {error}{advice}")))
}

/// Advice for a server's certificate that rustls refuses. libpq accepts more.
fn certificate_advice(error: &str) -> &'static str {
    if !error.contains("invalid peer certificate") {
        ""
    } else if error.contains("UnsupportedCertVersion") {
        ". The server's certificate is of X.509 version 1, which is refused with every sslmode: give the server one of \
         version 3. Or connect without TLS by sslmode=disable, to which prefer does not fall back"
    } else if error.contains("CaUsedAsEndEntity") {
        ". The server's certificate is an authority's (CA:TRUE) and cannot be its own root: give the server one \
         issued by sslrootcert, or one with basicConstraints=CA:FALSE"
    } else {
        ". sslrootcert names the file with the authority's certificate; sslmode=require encrypts without verifying"
    }
}

#[cfg(test)]
mod tests {
    use super::certificate_advice;

    #[test]
    fn a_certificate_that_is_refused_comes_with_advice() {
        // As rustls 0.23 says it of certificates that psql accepts.
        for (error, advice) in [
            ("Other(OtherError(UnsupportedCertVersion))", "sslmode=disable"),
            ("Other(OtherError(CaUsedAsEndEntity))", "CA:FALSE"),
            ("UnknownIssuer", "sslrootcert"),
        ] {
            let error = format!("invalid peer certificate: {error}");
            assert!(certificate_advice(&error).contains(advice), "{error}");
        }
        assert_eq!(certificate_advice("Connection refused (os error 111)"), "");
    }
}

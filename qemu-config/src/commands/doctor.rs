pub(super) fn doctor(_args: &crate::cli::DoctorArgs) -> Result<u8, super::Error> {
    Ok(0)
}

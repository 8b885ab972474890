// Certificates for a test, made when they are needed.
#ifndef NEARLINE_TESTS_SERVER_TEST_CERTIFICATES_H_
#define NEARLINE_TESTS_SERVER_TEST_CERTIFICATES_H_

#include <openssl/pem.h>
#include <openssl/x509v3.h>

#include <memory>
#include <string>

#include "absl/strings/str_cat.h"

namespace nearline::server {

// A key with a certificate, signed by another or by itself.
class TestIdentity {
 public:
  struct Options {
    std::string common_name = "test";
    std::string names;  // as "DNS:localhost,IP:127.0.0.1,URI:spiffe://a/b"
    bool authority = false;
    int days = 1;  // it is good for; negative: it was
  };

  explicit TestIdentity(const Options& options,
                        const TestIdentity* signer = nullptr)
      : key_(EVP_EC_gen("P-256"), EVP_PKEY_free),
        certificate_(X509_new(), X509_free) {
    X509* const x = certificate_.get();
    X509_set_version(x, 2);
    static long serial = 1;
    ASN1_INTEGER_set(X509_get_serialNumber(x), ++serial);
    constexpr long kDay = 24 * 3600;
    X509_gmtime_adj(X509_getm_notBefore(x), -30 * kDay);
    X509_gmtime_adj(X509_getm_notAfter(x), options.days * kDay);
    X509_set_pubkey(x, key_.get());
    X509_NAME_add_entry_by_txt(
        X509_get_subject_name(x), "CN", MBSTRING_UTF8,
        reinterpret_cast<const unsigned char*>(options.common_name.c_str()), -1,
        -1, 0);
    const TestIdentity& by = signer == nullptr ? *this : *signer;
    X509_set_issuer_name(x, X509_get_subject_name(by.certificate_.get()));
    if (options.authority) Extend(NID_basic_constraints, "critical,CA:TRUE");
    if (!options.names.empty()) Extend(NID_subject_alt_name, options.names);
    X509_sign(x, by.key_.get(), EVP_sha256());
  }

  std::string certificate() const {
    return Write(
        [this](BIO* out) { PEM_write_bio_X509(out, certificate_.get()); });
  }
  std::string key() const {
    return Write([this](BIO* out) {
      PEM_write_bio_PrivateKey(out, key_.get(), nullptr, nullptr, 0, nullptr,
                               nullptr);
    });
  }

 private:
  void Extend(int what, const std::string& value) {
    X509_EXTENSION* const extension =
        X509V3_EXT_conf_nid(nullptr, nullptr, what, value.c_str());
    X509_add_ext(certificate_.get(), extension, -1);
    X509_EXTENSION_free(extension);
  }
  template <typename F>
  static std::string Write(const F& write) {
    BIO* const out = BIO_new(BIO_s_mem());
    write(out);
    char* data = nullptr;
    const long size = BIO_get_mem_data(out, &data);
    std::string text(data, static_cast<size_t>(size));
    BIO_free(out);
    return text;
  }

  std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)> key_;
  std::unique_ptr<X509, decltype(&X509_free)> certificate_;
};

}  // namespace nearline::server

#endif  // NEARLINE_TESTS_SERVER_TEST_CERTIFICATES_H_

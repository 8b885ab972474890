#include "server/certificates.h"

#include <sys/stat.h>

#include "base/file.h"
#include "tests/server/test_certificates.h"
#include "tests/testing.h"

namespace nearline::server {
namespace {

using absl::StatusCode;

class CertificatesTest : public testing::Test {
 protected:
  void Write(const std::string& certificate, const std::string& key) {
    ASSERT_THAT(WriteFileAtomic(files_.certificate, certificate), IsOk());
    ASSERT_THAT(WriteFileAtomic(files_.key, key), IsOk());
  }
  std::string Copy(const Certificates& certificates) {
    return *ReadFile(certificates.copies().certificate);
  }

  TempDir dir_;
  const TlsFiles files_ = {.certificate = dir_ / "c.pem",
                           .key = dir_ / "k.pem"};
  const TestIdentity one_{{.common_name = "one"}}, two_{{.days = 9}};
};

TEST_F(CertificatesTest, CopiesFollowFilesThatFitTogether) {
  Write(one_.certificate(), one_.key());
  const auto certificates =
      Certificates::Open(files_, dir_.path(), Clock::Real());
  ASSERT_THAT(certificates, IsOk());
  EXPECT_EQ(Copy(**certificates), one_.certificate());
  EXPECT_FALSE(*(*certificates)->Reload());
  EXPECT_NEAR(absl::ToDoubleHours((*certificates)->expires() - absl::Now()), 24,
              1);

  for (const TestIdentity* next : {&two_, &one_, &two_}) {
    Write(next->certificate(), next->key());
    EXPECT_TRUE(*(*certificates)->Reload());
    EXPECT_EQ(Copy(**certificates), next->certificate());
    EXPECT_EQ(*ReadFile((*certificates)->copies().key), next->key());
  }
}

TEST_F(CertificatesTest, WhatDoesNotFitLeavesWhatWasThere) {
  Write(one_.certificate(), one_.key());
  const auto certificates =
      Certificates::Open(files_, dir_.path(), Clock::Real());
  ASSERT_THAT(certificates, IsOk());
  const auto refuses = [&](const std::string& certificate,
                           const std::string& key, const char* why) {
    Write(certificate, key);
    EXPECT_THAT((*certificates)->Reload().status(),
                IsError(StatusCode::kInvalidArgument, why));
    EXPECT_EQ(Copy(**certificates), one_.certificate());
  };
  refuses(two_.certificate(), one_.key(), "k.pem: is not the key of the first");
  refuses("", one_.key(), "c.pem: no certificate in it");
  refuses(one_.certificate().substr(0, 90), one_.key(), "no certificate in it");
  refuses(two_.certificate(), "nonsense", "k.pem: no private key in it");
  const TestIdentity old({.days = -1});
  refuses(old.certificate(), old.key(), "c.pem: expired at");
  ASSERT_THAT(RemoveAll(files_.key), IsOk());
  EXPECT_FALSE((*certificates)->Reload().ok());
  EXPECT_EQ(Copy(**certificates), one_.certificate());
}

TEST_F(CertificatesTest, TheFirstToExpireOfAChainCounts) {
  const TestIdentity root({.authority = true, .days = 3});
  const TestIdentity leaf({.days = 100}, &root);
  Write(leaf.certificate() + root.certificate(), leaf.key());
  const auto material = ReadTls(files_, absl::Now());
  ASSERT_THAT(material, IsOk());
  EXPECT_NEAR(absl::ToDoubleHours(material->expires - absl::Now()), 72, 1);
}

TEST_F(CertificatesTest, CopiesAreForThisUserAloneAndGoInTheEnd) {
  Write(one_.certificate(), one_.key());
  TlsFiles copies;
  {
    const auto certificates =
        Certificates::Open(files_, dir_.path(), Clock::Real());
    ASSERT_THAT(certificates, IsOk());
    copies = (*certificates)->copies();
    struct stat folder {};
    const std::string up = copies.key.substr(0, copies.key.rfind("/current/"));
    ASSERT_EQ(stat(up.c_str(), &folder), 0);
    EXPECT_EQ(folder.st_mode & 0777, 0700u);
  }
  EXPECT_FALSE(FileExists(copies.key));
}

}  // namespace
}  // namespace nearline::server

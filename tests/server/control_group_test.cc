#include "server/control_group.h"

#include "base/file.h"
#include "tests/testing.h"

namespace nearline::server {
namespace {

class ControlGroupTest : public testing::Test {
 protected:
  void Write(const std::string& path, const std::string& text) {
    const std::string file = dir_ / path;
    ASSERT_THAT(MakeDirs(file.substr(0, file.rfind('/'))), IsOk());
    ASSERT_THAT(WriteFileAtomic(file, text), IsOk());
  }
  ControlGroup Of(const std::string& groups) const {
    return ControlGroup(dir_.path(), groups);
  }
  const TempDir dir_;
};

TEST_F(ControlGroupTest, Version2TakesTheLeastOfTheGroupsAbove) {
  const std::string groups = "0::/system.slice/nearline.service\n";
  EXPECT_EQ(Of(groups).ReadMemory().limit, 0);
  EXPECT_FALSE(Of(groups).HasCpuQuota());
  EXPECT_EQ(Of(groups).Throttled(), absl::ZeroDuration());
  Write("system.slice/nearline.service/memory.max", "max\n");
  Write("system.slice/nearline.service/cpu.max", "max 100000\n");
  EXPECT_EQ(Of(groups).ReadMemory().limit, 0);
  EXPECT_FALSE(Of(groups).HasCpuQuota());
  Write("system.slice/memory.max", "1000\n");
  Write("system.slice/cpu.max", "150000 100000\n");
  Write("system.slice/cpu.stat",
        "usage_usec 9\nnr_throttled 2\nthrottled_usec 7000\n");
  EXPECT_EQ(Of(groups).ReadMemory().limit, 1000);
  EXPECT_TRUE(Of(groups).HasCpuQuota());
  EXPECT_EQ(Of(groups).Throttled(), absl::Milliseconds(7));
  Write("system.slice/nearline.service/memory.max", "500\n");
  EXPECT_EQ(Of(groups).ReadMemory().limit, 500);
  Write("system.slice/nearline.service/memory.current", "450\n");
  Write("system.slice/nearline.service/memory.stat",
        "anon 100\ninactive_file 150\n");
  EXPECT_EQ(Of(groups).ReadMemory().used, 300);
}

TEST_F(ControlGroupTest, InAContainerTheGroupIsTheRoot) {
  Write("memory.max", "700\n");
  Write("cpu.max", "50000 100000\n");
  EXPECT_EQ(Of("0::/\n").ReadMemory().limit, 700);
  EXPECT_TRUE(Of("0::/\n").HasCpuQuota());
}

TEST_F(ControlGroupTest, Version1HasAFileSystemForEach) {
  // A container sees its own folder as the root, and is told the machine's
  // path.
  const std::string groups =
      "9:name=systemd:/\n4:memory:/docker/1f\n2:cpu,cpuacct:/docker/1f\n0::/\n";
  Write("memory/memory.limit_in_bytes", "9223372036854771712\n");
  Write("cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
  EXPECT_EQ(Of(groups).ReadMemory().limit, 0);
  EXPECT_FALSE(Of(groups).HasCpuQuota());
  Write("memory/memory.limit_in_bytes", "4096\n");
  Write("cpu,cpuacct/cpu.cfs_quota_us", "200000\n");
  Write("cpu,cpuacct/cpu.stat",
        "nr_periods 5\nnr_throttled 1\nthrottled_time 3000000\n");
  Write("memory/memory.usage_in_bytes", "3000\n");
  Write("memory/memory.stat", "inactive_file 1\ntotal_inactive_file 2000\n");
  EXPECT_EQ(Of(groups).ReadMemory().limit, 4096);
  EXPECT_EQ(Of(groups).ReadMemory().used, 1000);
  EXPECT_TRUE(Of(groups).HasCpuQuota());
  EXPECT_EQ(Of(groups).Throttled(), absl::Milliseconds(3));
}

}  // namespace
}  // namespace nearline::server

#ifndef NEARLINE_BASE_VERSION_H_
#define NEARLINE_BASE_VERSION_H_

namespace nearline {

inline constexpr char kVersion[] = "0.1.0";

}  // namespace nearline

#endif  // NEARLINE_BASE_VERSION_H_

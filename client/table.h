#ifndef NEARLINE_CLIENT_TABLE_H_
#define NEARLINE_CLIENT_TABLE_H_

#include <string>
#include <vector>

namespace nearline::client {

// Rows of text in aligned columns under a header. A column whose cells are all
// numbers is aligned to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { Add(std::move(header)); }
  // What would steer a terminal, or end the line, is shown as U+FFFD.
  void Add(std::vector<std::string> row);
  std::string Render() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace nearline::client

#endif  // NEARLINE_CLIENT_TABLE_H_
